"""Optimizer and schedule, both timm's."""

import torch
from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import nn

from tapadl.training.config import TrainingConfig


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW without weight decay for norms, biases and what the model names in `no_weight_decay()`.

    Example:
        >>> groups = build_optimizer(nn.Linear(3, 2), TrainingConfig()).param_groups
        >>> sorted(group["weight_decay"] for group in groups)
        [0.0, 0.05]
    """
    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        model, opt="adamw", lr=config.learning_rate, weight_decay=config.weight_decay
    )
    return optimizer


def build_schedule(
    optimizer: torch.optim.Optimizer, config: TrainingConfig, total_steps: int
) -> CosineLRScheduler:
    """Linear warm-up, then a cosine to zero; `step_update(step)` sets the rate before each step.

    Args:
        optimizer: Whose learning rate it sets.
        config: Learning rate and part of the steps for the warm-up.
        total_steps: Steps in all.
    """
    warmup_steps = round(config.warmup_fraction * total_steps)
    schedule = CosineLRScheduler(
        optimizer,
        t_initial=max(total_steps - warmup_steps, 1),
        warmup_t=warmup_steps,
        # the first step learns already
        warmup_lr_init=config.learning_rate / (warmup_steps + 1),
        warmup_prefix=True,
        t_in_epochs=False,
    )
    schedule.step_update(0)
    return schedule
