"""What every task puts together for the loop in the same way: optimizer, schedule and batches."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from tapadl.data.training_set import RandomItems
from tapadl.tasks.batches import batches
from tapadl.training.engine import Ingredients
from tapadl.training.objective import Objective
from tapadl.training.optimizer import build_optimizer, build_schedule
from tapadl.training.settings import Settings
from tapadl.training.step_plan import StepPlan


def make_ingredients(
    settings: Settings,
    plan: StepPlan,
    device: torch.device,
    *,
    model: nn.Module,
    training_set: RandomItems[Any, Any],
    objective: Objective,
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None,
    score: str,
    units: Sequence[nn.Module],
    evaluated_on: str,
) -> Ingredients:
    """The ingredients of a run; see `Ingredients`.

    Args:
        settings: Of the run.
        plan: Its steps.
        device: Of this process.
        model: What is trained.
        training_set: On what.
        objective: What is minimised.
        evaluate: What it scores; None where nothing is evaluated.
        score: The name of the score that tells the best checkpoint.
        units: Modules that are sharded one at a time.
        evaluated_on: What tells these images from others.
    """
    return Ingredients(
        model,
        make_optimizer=lambda model: build_optimizer(model, settings.optimizer),
        make_schedule=lambda optimizer: build_schedule(
            optimizer,
            settings.schedule,
            total_steps=plan.total_steps,
            warmup_steps=plan.warmup_steps,
        ),
        make_batches=lambda step: batches(training_set, settings, plan, device, step),
        objective=objective,
        evaluate=evaluate,
        score=score,
        units=units,
        evaluated_on=evaluated_on,
    )
