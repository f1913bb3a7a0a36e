"""Optimizer and schedule, both timm's."""

from functools import partial
from typing import Any

import torch
from timm.optim import (  # type: ignore[attr-defined]
    create_optimizer_v2,
    get_optimizer_info,
    list_optimizers,
    param_groups_weight_decay,
)
from timm.scheduler.cosine_lr import CosineLRScheduler
from timm.scheduler.poly_lr import PolyLRScheduler
from timm.scheduler.scheduler import Scheduler
from timm.scheduler.step_lr import StepLRScheduler
from torch import nn

from tapadl.training.settings import OptimizerSettings, ScheduleSettings

SEGMENTER_HEAD = "decode_head"
"""The part of a segmenter that `optimizer.head_lr` is for."""


def build_optimizer(model: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """An optimizer without weight decay for norms, biases and what the model names in `no_weight_decay()`.

    With `layer_decay` each layer below the head learns by that factor more slowly, the layers being those of
    the model's `group_matcher()`. With `head_lr` a segmenter's head has groups of its own, whose rate is that
    many times the others' once a schedule has set it.

    Raises:
        ValueError: As `check_optimizer`; or if it needs what is not here.

    Example:
        >>> groups = build_optimizer(nn.Linear(3, 2), OptimizerSettings()).param_groups
        >>> sorted(group["weight_decay"] for group in groups)
        [0.0, 0.05]
    """
    check_optimizer(settings)
    given: dict[str, Any] = {"betas": settings.betas, "eps": settings.eps}
    if settings.head_lr != 1:
        given["param_group_fn"] = partial(_groups_with_head_apart, settings=settings)
    try:
        optimizer: torch.optim.Optimizer = create_optimizer_v2(
            model,
            opt=settings.name,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            layer_decay=settings.layer_decay,
            **{name: value for name, value in given.items() if value is not None},
        )
    except Exception as error:  # some need a GPU or a package
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"could not build the optimizer {settings.name}: {reason}") from error
    return optimizer


def _groups_with_head_apart(model: Any, settings: OptimizerSettings) -> list[dict[str, Any]]:
    """The groups of timm, each cut in two: the rest, and the head with the scale its schedules apply."""
    heads = {
        parameter for name, parameter in model.named_parameters() if name.startswith(f"{SEGMENTER_HEAD}.")
    }
    apart = []
    for group in param_groups_weight_decay(
        model, settings.weight_decay, no_weight_decay_list=model.no_weight_decay()
    ):
        for is_head, further in ((False, {}), (True, {"lr_scale": settings.head_lr})):
            of_part = [parameter for parameter in group["params"] if (parameter in heads) == is_head]
            if of_part:
                apart.append({**group, "params": of_part, **further})
    return apart


def check_optimizer(settings: OptimizerSettings) -> None:
    """That timm has such an optimizer.

    Raises:
        ValueError: If timm does not know it, it needs second derivatives, or it has no betas or eps and some
            are given.
    """
    known = [str(name) for name in list_optimizers()]
    if settings.name not in known:
        raise ValueError(
            f"expected optimizer.name to be one of timm's ({', '.join(known)}), got {settings.name!r}"
        )
    info = get_optimizer_info(settings.name)
    if info.second_order:
        raise ValueError(
            f"expected an optimizer of first derivatives as optimizer.name, got {settings.name}, which needs "
            f"second ones"
        )
    for name, taken in {"betas": info.has_betas, "eps": info.has_eps}.items():
        value = getattr(settings, name)
        if value is not None and not taken:
            raise ValueError(
                f"expected optimizer.{name} to be null for {settings.name}, which has none, got {value!r}"
            )


def build_schedule(
    optimizer: torch.optim.Optimizer, settings: ScheduleSettings, *, total_steps: int, warmup_steps: int
) -> Scheduler:
    """A linear rise, then the decay; `step_update(n)` sets the rate for the step after n steps.

    Args:
        optimizer: Whose learning rates it sets; where they start is the height of the rise.
        settings: The form of the decay, and the rates at both ends.
        total_steps: Steps in all.
        warmup_steps: Steps of the rise, below `total_steps`.
    """
    rise: dict[str, Any] = {
        "warmup_t": warmup_steps,
        "warmup_lr_init": settings.warmup_lr,
        "warmup_prefix": True,
        "t_in_epochs": False,
    }
    steps = total_steps - warmup_steps
    schedule: Scheduler
    match settings.name:
        case "cosine":
            schedule = CosineLRScheduler(optimizer, t_initial=steps, lr_min=settings.min_lr, **rise)
        case "poly":
            schedule = PolyLRScheduler(optimizer, t_initial=steps, lr_min=settings.min_lr, power=1.0, **rise)
        case "constant":
            schedule = StepLRScheduler(optimizer, decay_t=steps + 1, decay_rate=1.0, **rise)
    schedule.step_update(0)
    return schedule
