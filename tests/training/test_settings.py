import math
import re
from dataclasses import FrozenInstanceError, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from tapadl.training.arguments_help import descriptions
from tapadl.training.settings import (
    AdlSettings,
    AugmentationSettings,
    CheckpointSettings,
    DataSettings,
    EvaluationSettings,
    LoggingSettings,
    ModelSettings,
    OptimizerSettings,
    ScheduleSettings,
    SegmentationSettings,
    Settings,
    TapSettings,
    TrainingSettings,
)

MODEL = ModelSettings("deit_tiny_patch16_224")
DATA = DataSettings("embedded")


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (ModelSettings, {"name": ""}, "model.name not to be empty, got ''"),
        (ModelSettings, {"name": "x", "img_size": 0}, "model.img_size to be at least 1, got 0"),
        (ModelSettings, {"name": "x", "drop_path": 1.0}, "model.drop_path to be at least 0 and below 1"),
        (ModelSettings, {"name": "x", "options": {"a b": 1}}, "model.options to have names of arguments"),
        (ModelSettings, {"name": "x", "options": {3: 1}}, "model.options to have names of arguments"),
        (
            ModelSettings,
            {"name": "x", "pretrained": True, "checkpoint": Path("a.pth")},
            "model.checkpoint to be null where model.pretrained is true, got 'a.pth'",
        ),
        (TapSettings, {"num_branches": 0}, "tap.num_branches to be at least 1, got 0"),
        (TapSettings, {"temperature": 0.0}, "tap.temperature to be above 0, got 0.0"),
        (TapSettings, {"init": "zero"}, "tap.init to be one of paper, identity, got 'zero'"),
        (TapSettings, {"blocks": ()}, "tap.blocks to name a block"),
        (TapSettings, {"blocks": (-1,)}, "tap.blocks to be at least 0"),
        (TapSettings, {"blocks": (1, 1)}, "tap.blocks to have everything once, got [1, 1]"),
        (AdlSettings, {"weight": -1.0}, "adl.weight to be at least 0"),
        (AdlSettings, {"tau": math.nan}, "adl.tau to be at least 0, got nan"),
        (AdlSettings, {"tau": math.inf}, "adl.tau to be at least 0, got inf"),
        (AdlSettings, {"query_fraction": 0.0}, "adl.query_fraction to be above 0 and at most 1"),
        (AdlSettings, {"target_share": 1.0}, "adl.target_share to be above 0 and below 1"),
        (AdlSettings, {"target_share": 0.1, "weight": 0.0}, "adl.weight to be above 0 to begin with"),
        (AdlSettings, {"tau_quantile": 0.0}, "adl.tau_quantile to be above 0 and below 1"),
        (DataSettings, {"train": ""}, "data.train not to be empty"),
        (DataSettings, {"train": "a", "on_error": "go"}, "data.on_error to be one of stop, skip, got 'go'"),
        (DataSettings, {"train": "a", "workers": -1}, "data.workers to be at least 0"),
        (AugmentationSettings, {"scale": (0.0, 1.0)}, "augmentation.scale to be above 0 and at most 1"),
        (AugmentationSettings, {"scale": (0.5, 0.1)}, "augmentation.scale as the lower and the upper end"),
        (AugmentationSettings, {"hflip": 1.5}, "augmentation.hflip to be at least 0 and at most 1"),
        (AugmentationSettings, {"label_smoothing": 1.0}, "augmentation.label_smoothing to be at least 0 and"),
        (AugmentationSettings, {"mean": (0.5,)}, "augmentation.std for the same channels"),
        (AugmentationSettings, {"mean": (0.5,), "std": (1.0, 1.0)}, "augmentation.std for the same channels"),
        (AugmentationSettings, {"mean": (), "std": ()}, "augmentation.mean to have a number for each"),
        (AugmentationSettings, {"mean": (0.5,), "std": (0.0,)}, "augmentation.std to be above 0"),
        (
            AugmentationSettings,
            {"augmix": True, "auto_augment": "rand-m9"},
            "augmentation.auto_augment to be null where augmentation.augmix is true, got 'rand-m9'",
        ),
        (SegmentationSettings, {"dataset": "voc"}, "segmentation.dataset to be one of cityscapes, acdc, ade"),
        (SegmentationSettings, {"crop_size": (0, 8)}, "segmentation.crop_size to be at least 1, got [0, 8]"),
        (SegmentationSettings, {"scale": (2.0, 0.5)}, "segmentation.scale as the lower and the upper end"),
        (SegmentationSettings, {"max_class_share": 0.0}, "segmentation.max_class_share to be above 0 and at"),
        (SegmentationSettings, {"stride": (8, 8)}, "stride to be null where segmentation.window is null"),
        (
            SegmentationSettings,
            {"window": (16, 8), "stride": (8, 9)},
            "segmentation.stride to be at most segmentation.window, [16, 8], got [8, 9]",
        ),
        (OptimizerSettings, {"head_lr": 0.0}, "optimizer.head_lr to be above 0, got 0.0"),
        (OptimizerSettings, {"lr": 0.0}, "optimizer.lr to be above 0, got 0.0"),
        (OptimizerSettings, {"lr": "1e-3"}, "optimizer.lr to be above 0, got '1e-3'"),
        (OptimizerSettings, {"betas": (0.9, 1.0)}, "optimizer.betas to be at least 0 and below 1"),
        (ScheduleSettings, {"name": "step"}, "schedule.name to be one of cosine, poly, constant"),
        (ScheduleSettings, {"warmup_epochs": -1.0}, "schedule.warmup_epochs to be at least 0"),
        (TrainingSettings, {"epochs": 0}, "training.epochs to be at least 1"),
        (TrainingSettings, {"seed": 2**32}, "training.seed to be at least 0 and at most 4294967295, got"),
        (TrainingSettings, {"ema_decay": 1.0}, "training.ema_decay to be above 0 and below 1"),
        (
            TrainingSettings,
            {"batch_size": 10, "accumulation": 4},
            "training.batch_size to be a multiple of training.accumulation, 4, got 10",
        ),
        (CheckpointSettings, {"keep": 0}, "checkpoint.keep to be at least 1"),
        (EvaluationSettings, {"severities": (0,)}, "evaluation.severities to be at least 1 and at most 5"),
        (EvaluationSettings, {"severities": ()}, "evaluation.severities to name a severity"),
        (EvaluationSettings, {"corruptions": ("fgo",)}, "evaluation.corruptions out of gaussian_noise, "),
        (EvaluationSettings, {"corruptions": ("fog", "fog")}, "corruptions to have everything once"),
        (LoggingSettings, {"every_steps": 0}, "logging.every_steps to be at least 1"),
        (LoggingSettings, {"wandb": ""}, "logging.wandb not to be empty"),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_key(kind: type, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"^expected ") as refused:
        kind(**values)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"model": ModelSettings("tap_rvt_tiny"), "tap": TapSettings(enabled=False)},
            "tap.enabled to be true for tap_rvt_tiny",
        ),
        (
            {"training": TrainingSettings(epochs=5)},
            "schedule.warmup_epochs to be below training.epochs, 5, got 5",
        ),
        ({"optimizer": OptimizerSettings(lr=1e-7)}, "schedule.warmup_lr to be at most optimizer.lr, 1e-07"),
        (
            {"schedule": ScheduleSettings(min_lr=1.0)},
            "schedule.min_lr to be at most optimizer.lr, 0.001, got 1",
        ),
        ({"evaluation": EvaluationSettings(corruptions=("fog",))}, "data.val, whose images"),
        (
            {"training": TrainingSettings(compile=True, grad_checkpointing=True)},
            "training.grad_checkpointing to be false where training.compile is true",
        ),
    ],
)
def test_sections_that_contradict_one_another_are_refused(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"^expected ") as refused:
        Settings(**{"model": MODEL, "data": DATA, **sections})
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("task", "sections", "key"),
    [
        ("segmentation", {"augmentation": AugmentationSettings(mixup=0.8)}, "augmentation.mixup"),
        (
            "segmentation",
            {"augmentation": AugmentationSettings(auto_augment="x")},
            "augmentation.auto_augment",
        ),
        (
            "segmentation",
            {"augmentation": AugmentationSettings(color_jitter=None)},
            "augmentation.color_jitter",
        ),
        ("segmentation", {"augmentation": AugmentationSettings(crop_pct=0.9)}, "augmentation.crop_pct"),
        ("segmentation", {"data": DataSettings("a", num_classes=3)}, "data.num_classes"),
        ("segmentation", {"model": ModelSettings("vit", img_size=32)}, "model.img_size"),
        ("segmentation", {"optimizer": OptimizerSettings(layer_decay=0.5)}, "optimizer.layer_decay"),
        ("classification", {"segmentation": SegmentationSettings(head_dim=64)}, "segmentation.head_dim"),
        ("classification", {"segmentation": SegmentationSettings(photometric=False)}, "segmentation.photo"),
        ("classification", {"optimizer": OptimizerSettings(head_lr=10.0)}, "optimizer.head_lr"),
    ],
)
def test_a_setting_of_the_other_task_is_refused(task: Any, sections: dict[str, Any], key: str) -> None:
    other = "classification" if task == "segmentation" else "segmentation"
    with pytest.raises(
        ValueError, match=rf"^expected {re.escape(key)}.*where task is {task}, .* of {other}$"
    ):
        Settings(**{"model": MODEL, "data": DATA, **sections}, task=task)


def test_what_both_tasks_use_may_be_set_for_both() -> None:
    augmentation = AugmentationSettings(hflip=0.0, mean=(0.5,) * 3, std=(0.5,) * 3)
    for task in ("classification", "segmentation"):
        model = ModelSettings("vit", drop_path=0.1, options={"depth": 2})
        Settings(model, DATA, task=task, augmentation=augmentation)  # type: ignore[arg-type]


def test_an_unknown_task_and_a_segmenter_by_a_function_of_ones_own_are_refused() -> None:
    with pytest.raises(ValueError, match="expected task to be one of classification, segmentation, got 'x'"):
        Settings(MODEL, DATA, task="x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"model\.name to be a backbone of timm .* got 'a:b'"):
        Settings(ModelSettings("a:b"), DATA, task="segmentation")


def test_the_ends_of_the_ranges_are_allowed() -> None:
    AdlSettings(weight=0.0, tau=0.0, query_fraction=1.0)
    AugmentationSettings(scale=(1.0, 1.0), hflip=1.0, mean=(0.0,), std=(1.0,), reprob=0.0)
    TrainingSettings(seed=2**32 - 1)
    Settings(MODEL, DATA, optimizer=OptimizerSettings(lr=1e-6), schedule=ScheduleSettings(warmup_epochs=0.0))


def test_the_defaults_are_those_of_the_paper_and_leave_adaptive_choices_off() -> None:
    settings = Settings(MODEL, DATA)
    assert (settings.tap.num_branches, settings.tap.temperature, settings.tap.init) == (4, 1.0, "paper")
    assert (settings.adl.weight, settings.adl.tau, settings.adl.query_fraction) == (1.0, 2.0, 1.0)
    assert settings.adl.target_share is None
    assert settings.adl.tau_quantile is None
    assert not settings.augmentation.mixes


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        MODEL.name = "another"  # type: ignore[misc]


@pytest.mark.parametrize("kind", [Settings, *filter(is_dataclass, get_type_hints(Settings).values())])
def test_the_docstring_says_what_every_field_is_and_nothing_else(kind: type) -> None:
    assert list(descriptions(kind)) == [item.name for item in fields(kind)]
    assert all(descriptions(kind).values())
