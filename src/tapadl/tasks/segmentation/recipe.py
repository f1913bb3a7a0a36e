"""From the settings of a run to what the loop trains: segmentation."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from tapadl.models.sharing import DESCRIPTION, TEMPERATURE
from tapadl.tasks.batches import workers_of
from tapadl.tasks.ingredients import make_ingredients
from tapadl.tasks.segmentation.data import SegmentationData, make_training_set, open_data
from tapadl.tasks.segmentation.loss import pixel_cross_entropy
from tapadl.tasks.segmentation.scores import Scores
from tapadl.tasks.segmentation.training_model import SegmenterModel, build_model
from tapadl.training.adaptation import DiversificationTerm
from tapadl.training.engine import Ingredients
from tapadl.training.objective import SupervisedObjective
from tapadl.training.optimizer import check_optimizer
from tapadl.training.settings import Settings
from tapadl.training.step_plan import StepPlan


@dataclass(frozen=True)
class SegmentationRecipe:
    """A run that is ready to begin.

    Args:
        ingredients: What is trained, on what, towards what.
        plan: Its steps.
        built: The segmenter, and how others build it again.
        data: The scenes.
        unreadable: The paths of training scenes that were skipped up to now, in this process.
    """

    ingredients: Ingredients
    plan: StepPlan
    built: SegmenterModel
    data: SegmentationData
    unreadable: Callable[[], list[str]]

    @classmethod
    def of(
        cls,
        settings: Settings,
        device: torch.device,
        on_shown: Callable[[int, int], None] | None = None,
    ) -> "SegmentationRecipe":
        """What the settings ask for, once the processes have joined.

        Args:
            settings: Of the run.
            device: Of this process.
            on_shown: Called while it evaluates with the scenes shown, and those to show.

        Raises:
            OSError: If scenes or weights are missing.
            ValueError: If something does not fit.
        """
        check_optimizer(settings.optimizer)
        data = open_data(settings)
        plan = StepPlan.of(settings, len(data.train), dist.get_world_size())
        built = build_model(settings, data.train.scheme)
        training_set = make_training_set(data.train, settings, built.description)
        evaluate = None
        if data.val is not None:
            evaluate = Scores(
                data.val,
                settings.evaluation,
                settings.segmentation,
                built.description,
                num_workers=workers_of(settings.data),
                device=device,
                precision=settings.training.precision,
                on_shown=on_shown,
            )
        ingredients = make_ingredients(
            settings,
            plan,
            device,
            model=built.model,
            training_set=training_set,
            objective=SupervisedObjective(
                partial(pixel_cross_entropy, count_ignored=settings.segmentation.count_ignored),
                diversification=DiversificationTerm.of(built.model, settings.adl),
            ),
            evaluate=evaluate,
            score="miou",
            units=built.blocks(),
            evaluated_on="" if data.val is None else data.val.fingerprint,
        )
        return cls(ingredients, plan, built, data, lambda: training_set.unreadable)

    def identity(self) -> dict[str, Any]:
        """What the scenes are, so that a run goes on with the same ones only."""
        return {"train": self.data.train.fingerprint}

    def config(self) -> dict[str, Any]:
        """The description of the segmenter."""
        config: dict[str, Any] = json.loads(self.built.description.to_text())
        return config

    def facts(self) -> dict[str, str]:
        """What a file says of its weights: all that is needed to build the segmenter again."""
        description = self.built.description
        facts = {} if description.tap is None else {TEMPERATURE: repr(description.tap["temperature"])}
        return facts | {DESCRIPTION: description.to_text()}
