"""Batches of a training run, whatever is learned from them."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

from tapadl.data.training_set import RandomItems
from tapadl.training.objective import Batch
from tapadl.training.sampling import EpochBatches
from tapadl.training.settings import DataSettings, Settings
from tapadl.training.step_plan import StepPlan
from tapadl.training.stopping import leave_stopping_to_trainer


def batches(
    training_set: RandomItems[Any, Any],
    settings: Settings,
    step_plan: StepPlan,
    device: torch.device,
    start_step: int,
) -> Iterator[Sequence[Batch]]:
    """For every step from `start_step` on, the micro-batches of this process.

    What they hold follows from (seed, epoch, index), whatever the number of workers.
    """
    training = settings.training
    order = EpochBatches(
        len(training_set),
        training.batch_size,
        training.seed,
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        accumulation=training.accumulation,
    )
    loader = iter(
        DataLoader(
            training_set,
            batch_sampler=order.micro_batches(start_step, step_plan.total_steps),
            num_workers=workers_of(settings.data),
            worker_init_fn=leave_stopping_to_trainer,
            pin_memory=device.type == "cuda",
        )
    )
    for _ in range(start_step, step_plan.total_steps):
        yield [next(loader) for _ in range(training.accumulation)]


def workers_of(settings: DataSettings) -> int:
    """Processes that read for this one: as many as asked for, or its share of the spare cores."""
    if settings.workers is not None:
        return settings.workers
    trainers_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    # a batch system grants fewer cores than the machine has
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(0, cores // trainers_here - 1)
