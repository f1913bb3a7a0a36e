"""Batches of a training run, whatever is learned from them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset, default_collate

from tapadl.data.training_set import RandomItems
from tapadl.evaluation.processes import spare_cores
from tapadl.training.objective import Batch
from tapadl.training.sampling import EpochBatches
from tapadl.training.settings import DataSettings, Settings
from tapadl.training.step_plan import StepPlan
from tapadl.training.stopping import leave_stopping_to_trainer


@dataclass(frozen=True)
class _Failure:
    error: OSError | ValueError


class _Told(Dataset[Any]):
    """Items, or in their place what went wrong: torch would send a worker's traceback."""

    def __init__(self, items: RandomItems[Any, Any]) -> None:
        self.items = items

    def __getitems__(self, places: Sequence[tuple[int, int]]) -> list[Any]:
        try:
            return self.items.__getitems__(places)
        except (OSError, ValueError) as error:
            return [_Failure(error)]


def _collated(items: list[Any]) -> Any:
    return items[0] if isinstance(items[0], _Failure) else default_collate(items)


def batches(
    training_set: RandomItems[Any, Any],
    settings: Settings,
    step_plan: StepPlan,
    device: torch.device,
    start_step: int,
) -> Iterator[Sequence[Batch]]:
    """For every step from `start_step` on, the micro-batches of this process.

    What they hold follows from (seed, epoch, index), whatever the number of workers.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If one holds something else than it should.
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
            _Told(training_set),
            batch_sampler=order.micro_batches(start_step, step_plan.total_steps),
            num_workers=workers_of(settings.data),
            collate_fn=_collated,
            worker_init_fn=leave_stopping_to_trainer,
            pin_memory=device.type == "cuda",
        )
    )
    try:
        for _ in range(start_step, step_plan.total_steps):
            micro_batches = [next(loader) for _ in range(training.accumulation)]
            for batch in micro_batches:
                if isinstance(batch, _Failure):
                    raise batch.error
            yield micro_batches
    finally:
        # a traceback keeps this frame, and the loader in it would keep its processes
        del loader


def workers_of(settings: DataSettings) -> int:
    """Processes that read for this one: as many as asked for, or its share of the spare cores."""
    if settings.workers is not None:
        return settings.workers
    return spare_cores()
