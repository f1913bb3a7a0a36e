"""The processes of an evaluation: one, or those that torchrun started."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

# An evaluation may wait long for the slowest process.
_PATIENCE = timedelta(days=7)


def rank() -> int:
    """Of this process, 0 for the first or only one."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def spare_cores() -> int:
    """How many processes can read for this one: its share of the cores that are granted, less its own."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    # a batch system grants fewer cores than the machine has
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(0, cores // here - 1)


@contextmanager
def joined() -> Iterator[None]:
    """Processes that torchrun started find one another for as long as the block lasts."""
    if world_size() == 1:
        yield
        return
    # gloo on every device: what is exchanged is a path and a signal to go on
    dist.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def told_by_first(path: Path | None) -> Path:
    """The path that the first process knows, in every process."""
    known = [path]
    if world_size() > 1:
        dist.broadcast_object_list(known, src=0)
    assert known[0] is not None
    return known[0]


def wait_for_all() -> None:
    """Until every process is here."""
    if world_size() > 1:
        dist.barrier()


def find_device(name: str | None = None) -> torch.device:
    """The device of that name; without one an accelerator where there is one, else the CPU.

    Of several devices of a kind each process on a machine takes its own.

    Raises:
        ValueError: If torch cannot use it here.
    """
    if name is None:
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        name = "cpu" if accelerator is None else accelerator.type
    try:
        device = torch.device(name)
        if world_size() > 1 and device.type != "cpu" and device.index is None:
            if "LOCAL_RANK" not in os.environ:
                raise ValueError(
                    f"expected LOCAL_RANK, as torchrun sets it, to tell which {device.type} device is this "
                    f"process's own; name it with --device {device.type}:N"
                )
            device = torch.device(device.type, int(os.environ["LOCAL_RANK"]))
        # some devices have shapes only: what counts is a number that comes back
        torch.ones(1, device=device).add(1).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"expected a device that torch can use here, such as cpu, got {name!r}: {reason}"
        ) from None
    return device
