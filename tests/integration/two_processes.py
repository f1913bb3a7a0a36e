"""Training steps of a small model with TAP and ADL, in one process or in each of two.

`python two_processes.py RANK FOLDER` joins the other process through a file in FOLDER; rank 0 saves the
gradients of every step there. Each process sees half of the images.
"""

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import timm
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import tapadl

Gradients = dict[str, torch.Tensor]
IMAGES = torch.randn(8, 3, 32, 48, dtype=torch.double, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(8) % 5


def make_model() -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=(32, 48),
        patch_size=8,
        embed_dim=16,
        depth=2,
        num_heads=2,
        num_classes=5,
    )
    for block in model.blocks:
        nn.init.normal_(block.attn.qkv.weight, std=0.6)
    model = tapadl.attach_tap(model).double().train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # statistics of half a batch are not those of the whole
    return model


def step(
    images: torch.Tensor,
    labels: torch.Tensor,
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model,
    attached: bool = False,
    micro_batches: int = 1,
    checkpointing: bool = False,
    attach_first: bool = False,
) -> Gradients:
    """Gradients of one step; the loss is added by hand or attached, before or after the model is wrapped."""
    model = make_model()
    model.set_grad_checkpointing(checkpointing)
    wrapped = model if attach_first else wrap(model)
    diversification = None
    if attached:
        tapadl.attach_diversification(wrapped, loss_scale=1 / micro_batches)
    else:
        diversification = tapadl.AttentionDiversificationLoss(wrapped)
    if attach_first:
        wrapped = wrap(model)
    for index, part in enumerate(torch.arange(len(images)).chunk(micro_batches)):
        synchronise(wrapped, index == micro_batches - 1)
        loss = F.cross_entropy(wrapped(images[part]), labels[part])
        if diversification is not None:
            loss = loss + diversification()
        (loss / micro_batches).backward()
    return {name: whole(p.grad) for name, p in model.named_parameters() if p.grad is not None}


def synchronise(model: nn.Module, now: bool) -> None:
    """Gradients travel between processes with the last micro-batch only."""
    if isinstance(model, DistributedDataParallel):
        model.require_backward_grad_sync = now
    elif isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(now)


def whole(gradient: torch.Tensor) -> torch.Tensor:
    return gradient.full_tensor() if isinstance(gradient, DTensor) else gradient


def shard(model: nn.Module) -> nn.Module:
    for block in model.blocks:
        fully_shard(block)
    return fully_shard(model)


STEPS = {
    f"{name} {kind}": partial(step, wrap=wrap, **options)
    for name, wrap in {"ddp": DistributedDataParallel, "fsdp": shard}.items()
    for kind, options in {
        "by hand": {},
        "by hand, listening first": {"attach_first": True},
        "attached": {"attached": True},
        "attached first": {"attached": True, "attach_first": True},
        "accumulated": {"micro_batches": 2},
        "attached, accumulated": {"attached": True, "micro_batches": 2},
        "checkpointed": {"checkpointing": True},
        "attached, checkpointed": {"attached": True, "checkpointing": True},
    }.items()
}


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    half = slice(rank * 4, rank * 4 + 4)
    gradients = {name: run(IMAGES[half], LABELS[half]) for name, run in STEPS.items()}
    if rank == 0:
        torch.save(gradients, folder / "gradients.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
    # at the end of an interpreter a thread of torch that has not ended yet may abort the process
    os._exit(0)
