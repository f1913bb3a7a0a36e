"""A short loop for data in memory, one process, no checkpoints: the demo's. `engine` is for all else."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from tapadl.training.config import TrainingConfig
from tapadl.training.optimizer import build_optimizer, build_schedule
from tapadl.training.order import epoch_order
from tapadl.training.settings import OptimizerSettings, ScheduleSettings

Batch = TypeVar("Batch")

_CURVE_POINTS = 50


@dataclass(frozen=True)
class Step:
    """What the loop reports after a step.

    Args:
        step: Steps done, from 1.
        total_steps: Steps in all.
        loss: Of this step.
        learning_rate: Of this step.
    """

    step: int
    total_steps: int
    loss: float
    learning_rate: float


@dataclass(frozen=True)
class FitResult:
    """What training took.

    Args:
        steps: Optimizer steps done.
        epochs: The same in passes over the training images.
        seconds: Wall-clock time of the loop.
        median_step_seconds: Of one step; a burst of other work on the machine hardly moves it.
        curve: At most 50 points; the loss is the mean since the point before.
    """

    steps: int
    epochs: float
    seconds: float
    median_step_seconds: float
    curve: tuple[Step, ...]


def fit(
    model: nn.Module,
    config: TrainingConfig,
    *,
    num_samples: int,
    load: Callable[[torch.Tensor, int], Batch],
    loss: Callable[[Batch], torch.Tensor],
    on_step: Callable[[Step], None] | None = None,
) -> FitResult:
    """Train a model in place.

    The order of the samples follows from (`config.seed`, epoch); nothing is drawn from global state, so the
    same seed gives the same weights, on the CPUs of one machine bit for bit.

    Args:
        model: What is trained; left in training mode.
        config: Steps, optimizer, schedule, seed.
        num_samples: Size of the training set.
        load: Makes a batch of the samples at indices (`config.batch_size`,), int64, in an epoch, from 0.
        loss: Runs the model on a batch and gives the scalar to minimise.
        on_step: Called after every step.

    Returns:
        Steps, times and the loss curve.

    Raises:
        ValueError: If there are fewer samples than a batch takes.
        RuntimeError: If a loss, or a weight at the end, is not finite; the message says at which step.

    Example:
        >>> model, data = nn.Linear(2, 1), torch.randn(8, 2)
        >>> result = fit(
        ...     model,
        ...     TrainingConfig(epochs=3, batch_size=4),
        ...     num_samples=8,
        ...     load=lambda indices, epoch: data[indices],
        ...     loss=lambda batch: (model(batch) - 1).square().mean(),
        ... )
        >>> result.steps, result.curve[-1].step
        (6, 6)
    """
    steps_per_epoch = config.steps_per_epoch(num_samples)
    total_steps = config.total_steps(num_samples)
    rate = config.learning_rate
    optimizer = build_optimizer(model, OptimizerSettings(lr=rate, weight_decay=config.weight_decay))
    warmup_steps = min(round(config.warmup_fraction * total_steps), total_steps - 1)
    # the first step learns already
    decay = ScheduleSettings(warmup_lr=rate / (warmup_steps + 1), min_lr=0.0)
    schedule = build_schedule(optimizer, decay, total_steps=total_steps, warmup_steps=warmup_steps)
    model.train()
    points = {round(total_steps * (k + 1) / _CURVE_POINTS) for k in range(_CURVE_POINTS)} | {total_steps}
    curve: list[Step] = []
    since_point: list[float] = []
    step_seconds: list[float] = []
    order = torch.empty(0)
    started = time.perf_counter()
    for step in range(total_steps):
        step_started = time.perf_counter()
        epoch, place = divmod(step, steps_per_epoch)
        if place == 0:
            order = epoch_order(num_samples, seed=config.seed, epoch=epoch)
        batch = load(order[place * config.batch_size : (place + 1) * config.batch_size], epoch)
        learning_rate = optimizer.param_groups[0]["lr"]
        value = loss(batch)
        report = Step(step + 1, total_steps, value.item(), learning_rate)
        if not math.isfinite(report.loss):
            raise _diverged(f"a finite loss, got {report.loss}", report, epoch, config)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step_update(step + 1)
        step_seconds.append(time.perf_counter() - step_started)
        since_point.append(report.loss)
        if report.step in points:
            curve.append(Step(report.step, total_steps, statistics.fmean(since_point), learning_rate))
            since_point.clear()
        if on_step is not None:
            on_step(report)
    # No loss is computed after the last step, so what it did to the weights is looked at.
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise _diverged("finite weights, got NaN or infinity", report, epoch, config)
    return FitResult(
        steps=total_steps,
        epochs=total_steps / steps_per_epoch,
        seconds=time.perf_counter() - started,
        median_step_seconds=statistics.median(step_seconds),
        curve=tuple(curve),
    )


def _diverged(what: str, report: Step, epoch: int, config: TrainingConfig) -> RuntimeError:
    return RuntimeError(
        f"expected {what} at step {report.step} of {report.total_steps} (epoch {epoch + 1}); "
        f"try a learning rate below {config.learning_rate:g}"
    )
