"""From the settings of a run to what the loop trains: classification."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from tapadl.evaluation.preprocessing import Preprocessing
from tapadl.models.sharing import CONFIG, TEMPERATURE
from tapadl.tasks.batches import workers_of
from tapadl.tasks.classification.data import ClassificationData, make_training_set, open_data
from tapadl.tasks.classification.model import ClassifierModel, build_model
from tapadl.tasks.classification.scores import Scores
from tapadl.tasks.ingredients import make_ingredients
from tapadl.training.adaptation import DiversificationTerm
from tapadl.training.engine import Ingredients
from tapadl.training.mixing import Mixing, patch_augmentation
from tapadl.training.objective import SupervisedObjective
from tapadl.training.optimizer import check_optimizer
from tapadl.training.settings import AugmentationSettings, Settings, TapSettings
from tapadl.training.step_plan import StepPlan


@dataclass(frozen=True)
class ClassificationRecipe:
    """A run that is ready to begin.

    Args:
        ingredients: What is trained, on what, towards what.
        plan: Its steps.
        built: The model, and how others build it again.
        data: The images.
        unreadable: The paths of training images that were skipped up to now, in this process.
        tap: How TAP is built.
    """

    ingredients: Ingredients
    plan: StepPlan
    built: ClassifierModel
    data: ClassificationData
    unreadable: Callable[[], list[str]]
    tap: TapSettings

    @classmethod
    def of(
        cls,
        settings: Settings,
        device: torch.device,
        on_shown: Callable[[int, int], None] | None = None,
    ) -> "ClassificationRecipe":
        """What the settings ask for, once the processes have joined.

        Args:
            settings: Of the run.
            device: Of this process.
            on_shown: Called while it evaluates with the images shown, and those to show.

        Raises:
            OSError: If images or weights are missing.
            ValueError: If something does not fit.
        """
        check_optimizer(settings.optimizer)
        data = open_data(settings.data)
        plan = StepPlan.of(settings, len(data.train), dist.get_world_size())
        built = build_model(settings, data.num_classes)
        training_set = make_training_set(data.train, settings, built.preprocessing)
        evaluate = None
        if data.val is not None:
            evaluate = Scores(
                data.val,
                settings.evaluation,
                built.preprocessing,
                # without a backward there is room for more; a power of two cuts every set alike
                batch_size=max(64, plan.micro_batch_size),
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
            objective=make_objective(built.model, settings, data.num_classes, built.preprocessing),
            evaluate=evaluate,
            score="top1",
            units=built.blocks(),
            evaluated_on="" if data.val is None else data.val.fingerprint,
        )
        return cls(ingredients, plan, built, data, lambda: training_set.unreadable, settings.tap)

    def identity(self) -> dict[str, Any]:
        """What the images are, so that a run goes on with the same ones only."""
        return {"train": self.data.train.fingerprint, "classes": self.data.num_classes}

    def config(self) -> dict[str, Any] | None:
        """The model as timm reads it, with the names of the classes; None for one of an own function."""
        config = self.built.config
        return None if config is None else {**config, "label_names": list(self.data.train.class_names)}

    def facts(self) -> dict[str, str]:
        """What a file says of its weights."""
        facts = {TEMPERATURE: repr(self.tap.temperature)} if self.tap.enabled else {}
        config = self.config()
        if config is None:
            return facts
        return facts | {"model_name": config["architecture"], CONFIG: json.dumps(config)}


def make_objective(
    model: nn.Module, settings: Settings, num_classes: int, preprocessing: Preprocessing
) -> SupervisedObjective:
    """Cross entropy, ADL and the augmentation of whole batches, as the settings say.

    Raises:
        ValueError: If ADL finds no attention in the model.
    """
    augment = None
    if settings.augmentation.patch_augmentation:
        augment = partial(patch_augmentation, mean=preprocessing.mean, std=preprocessing.std)
    return SupervisedObjective(
        F.cross_entropy,
        diversification=DiversificationTerm.of(model, settings.adl),
        mix=make_mixing(settings.augmentation, num_classes),
        augment=augment,
    )


def make_mixing(augmentation: AugmentationSettings, num_classes: int) -> Mixing:
    """What is done to the images and labels of a whole batch."""
    return Mixing(
        num_classes,
        mixup=augmentation.mixup,
        cutmix=augmentation.cutmix,
        switch_prob=augmentation.mixup_switch_prob,
        label_smoothing=augmentation.label_smoothing,
    )
