"""The processes of a training run: one, or those that torchrun started, on one machine or many."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm  # type: ignore[attr-defined]
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from tapadl.models.batch_norm import BatchNorm2d, SyncBatchNorm
from tapadl.training.settings import Parallel

# Where a module keeps what is called around its forward.
_HOOKS = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
)


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """The processes have found one another for as long as the block lasts; one process is a group of 1.

    Numbers on the CPU travel by gloo, those on `device` by what that device has.
    """
    if dist.is_initialized():
        yield
        return
    backend = "gloo"
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
    else:
        if device.type != "cpu":
            backend = f"cpu:gloo,{device.type}:{dist.get_default_backend_for_device(device)}"
        store, rank, world_size = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            store = _unused_part(store, rank, world_size)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _unused_part(store: Any, rank: int, world_size: int) -> Any:
    """A part of torchrun's store that these processes have to themselves, agreed upon by way of the store.

    torchrun keeps the store when it starts processes again (pytorch issue 135712). What one of them reads
    there may be the address of a process that has died; it then waits for that one, for half an hour.
    """
    if rank == 0:
        part = store.add("tapadl/part", 1)
        for other in range(1, world_size):
            while not store.check([f"tapadl/{part}/heard/{other}"]):
                # of the start before, until the other has come too
                ticket = store.add(f"tapadl/ticket/{other}", 0)
                store.set(f"tapadl/answer/{other}/{ticket}", str(part))
                time.sleep(0.01)
    else:
        ticket = store.add(f"tapadl/ticket/{rank}", 1)
        part = int(store.get(f"tapadl/answer/{rank}/{ticket}"))
        store.set(f"tapadl/{part}/heard/{rank}", "")
    return dist.PrefixStore(f"tapadl/{part}", store)  # type: ignore[attr-defined]


def distribute(model: nn.Module, parallel: Parallel, units: Sequence[nn.Module] = ()) -> nn.Module:
    """What to call instead of the model, so that all processes train the same one.

    All begin with the weights of the first. Alone, a process gets the model back.

    Args:
        model: On its device; with `"fsdp"` its parameters become shards in place.
        parallel: `"ddp"`, every process has all of the model, or `"fsdp"`, a share of it.
        units: Modules that `"fsdp"` gathers one at a time, such as the blocks.
    """
    if dist.get_world_size() == 1:
        return model
    device = next(model.parameters()).device
    if device.type == "cuda":
        model = with_sync_batch_norm(model)  # which a GPU alone can
    for tensor in model.state_dict().values():
        first = tensor.contiguous()
        dist.broadcast(first, src=0)
        tensor.copy_(first)
    if parallel == "fsdp":
        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        for unit in (*units, model):
            fully_shard(unit, mesh=mesh)
        return model
    wrapped = DistributedDataParallel(
        model, device_ids=None if device.type == "cpu" else [device], gradient_as_bucket_view=True
    )
    _settle_buckets(wrapped)
    return wrapped


def with_sync_batch_norm(model: nn.Module) -> nn.Module:
    """The model with batch norms whose statistics are those of all processes; hooks on them stay.

    Its own batch norms go on counting a batch once, also where blocks are computed twice.
    """
    before = dict(model.named_modules())
    # timm's also keeps the activation that its own batch norms end with
    model = convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    for name, module in model.named_modules():
        replaced = before.get(name, module)
        if replaced is not module:
            for kind in _HOOKS:
                # the same dictionary: whoever registered a hook can still take it off
                setattr(module, kind, getattr(replaced, kind))
            if isinstance(replaced, BatchNorm2d):
                module.__class__ = SyncBatchNorm
    return model


def synchronise_gradients(model: nn.Module, now: bool) -> None:
    """Whether the next forward and backward averages the gradients over the processes, or gathers its own.

    Args:
        model: What `distribute` gave.
        now: True for the last of a step.
    """
    if isinstance(model, DistributedDataParallel):
        model.require_backward_grad_sync = now
    elif isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(now)


class _SumOfParameters(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, zero: torch.Tensor) -> torch.Tensor:
        return sum((p.sum() for p in self.model.parameters() if p.requires_grad), start=zero)


def _settle_buckets(wrapped: DistributedDataParallel) -> None:
    """Let DDP order its buckets now, as it does once, after its first backward.

    The order of a sum over three processes or more depends on where in them a gradient lies: a run that goes
    on would add up its first step otherwise than the same step of a run that was not interrupted.
    """
    model = wrapped.module
    wrapped.module = _SumOfParameters(model)
    wrapped(torch.zeros((), device=wrapped.device)).backward()
    wrapped.module = model
    model.zero_grad()


@torch.no_grad()
def share_buffers(model: nn.Module) -> None:
    """Give every process the first one's floating-point buffers: statistics of batch norms.

    After each step: then it does not matter which process averages, saves or evaluates them.
    """
    if dist.get_world_size() == 1:
        return
    by_dtype: dict[torch.dtype, list[torch.Tensor]] = {}
    for buffer in model.buffers():
        if buffer.is_floating_point():
            by_dtype.setdefault(buffer.dtype, []).append(buffer)
    for buffers in by_dtype.values():
        together = torch.cat([buffer.reshape(-1) for buffer in buffers])
        dist.broadcast(together, src=0)
        for buffer, part in zip(buffers, together.split([buffer.numel() for buffer in buffers]), strict=True):
            buffer.copy_(part.view_as(buffer))


def over_processes(values: torch.Tensor, op: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> list[float]:
    """The sum, or another reduction, of numbers (N,) that each process has; the same in each."""
    together = values.to("cpu", torch.float64, copy=True)
    if dist.get_world_size() > 1:
        dist.all_reduce(together, op)
    return together.tolist()


def gradient_norm(model: nn.Module, largest: float | None) -> torch.Tensor:
    """The norm of the gradient of all parameters together, which is then scaled down to `largest`.

    Args:
        model: With gradients, whole or sharded.
        largest: The norm it may have; None for any.

    Returns:
        The norm before, a scalar on the device.
    """
    parameters = [p for p in model.parameters() if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if largest is not None:
        nn.utils.clip_grads_with_norm_(parameters, largest, norm)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
