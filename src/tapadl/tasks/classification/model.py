"""The model of a training run: built with random or given weights, TAP inside."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

import tapadl.models  # registers its names with timm  # noqa: F401
from tapadl.attach import attach_tap
from tapadl.attach.site import find_sites
from tapadl.evaluation.library_preprocessing import from_timm
from tapadl.evaluation.preprocessing import Preprocessing
from tapadl.evaluation.sources import from_function
from tapadl.evaluation.sources.source import told_in_a_sentence
from tapadl.evaluation.weights import check_fit
from tapadl.models.checkpoint import read_state_dict
from tapadl.tasks.starting_point import Weights, check_name, check_tap, checkpoint_gradients, split_tap
from tapadl.training.settings import AugmentationSettings, ModelSettings, Settings, TapSettings


@dataclass(frozen=True)
class ClassifierModel:
    """A model to train, and how others build it again.

    Args:
        model: (B, C, H, W) normalised images -> (B, num_classes) logits.
        preprocessing: Of the pictures it is evaluated on.
        config: As timm's `config.json`; None for a model of one's own function.
    """

    model: nn.Module
    preprocessing: Preprocessing
    config: dict[str, Any] | None

    def blocks(self) -> list[nn.Module]:
        """The blocks around its attentions, in order; none where none is known."""
        try:
            return list(dict.fromkeys(site.block for site in find_sites(self.model)))
        except ValueError:
            return []


def build_model(settings: Settings, num_classes: int) -> ClassifierModel:
    """The model that the settings ask for; its random weights follow from `training.seed`.

    With the same seed the model with TAP has the weights of the plain one beside those of TAP.

    Args:
        settings: Of the run.
        num_classes: Width of the logits.

    Raises:
        ValueError: If the model is not known or cannot be built, or weights do not fit.
        OSError: If weights have to be downloaded and cannot be.

    Example:
        >>> from tapadl.training.settings import DataSettings
        >>> options = {"img_size": [32, 48], "depth": 2}
        >>> vit = ModelSettings("vit_tiny_patch16_224", options=options)
        >>> built = build_model(Settings(vit, DataSettings("embedded")), num_classes=7)
        >>> built.model(torch.zeros(1, 3, 32, 48)).shape, built.preprocessing.image_size
        (torch.Size([1, 7]), (32, 48))
    """
    torch.manual_seed(settings.training.seed)
    if ":" in settings.model.name:
        built = _from_function(settings.model, settings.augmentation, num_classes)
        saved: Weights = {}
        if settings.model.checkpoint is not None:
            saved = _load_own(built.model, settings.model.checkpoint)
    else:
        built, saved = _from_timm(settings.model, settings.augmentation, num_classes)
    _put_tap_in(built.model, settings.model, settings.tap, saved)
    if settings.training.grad_checkpointing:
        checkpoint_gradients(built.model, settings.model.name)
    return built


def _from_timm(
    settings: ModelSettings, augmentation: AugmentationSettings, num_classes: int
) -> tuple[ClassifierModel, Weights]:
    """The model, and what a checkpoint holds of TAP that is not in it yet."""
    name = settings.name
    architecture = name.split(".")[0]
    check_name(settings)
    given = {"img_size": settings.img_size, "drop_path_rate": settings.drop_path}
    given = {key: value for key, value in given.items() if value is not None}
    for key, instead in {
        "num_classes": "data.num_classes or the classes of the images decide",
        "img_size": "model.img_size is given",
        "drop_path_rate": "model.drop_path is given",
    }.items():
        if key in settings.options and (key in given or key == "num_classes"):
            raise ValueError(
                f"expected no {key} in model.options where {instead}, got {settings.options[key]!r}"
            )
    options = given | settings.options
    options["num_classes"] = num_classes
    with told_in_a_sentence(f"could not build {name} with {json.dumps(options, default=str)}"):
        model = timm.create_model(name, pretrained=settings.pretrained, **options)
    later: Weights = {}
    if settings.checkpoint is not None:
        state, later = split_tap(model, read_state_dict(settings.checkpoint)[0])
        with told_in_a_sentence(f"the weights in {settings.checkpoint.name} do not fit {name}"):
            model = timm.create_model(
                name, pretrained=True, pretrained_cfg_overlay=_source(model, state, num_classes), **options
            )
    config = _pretrained_config(model, options, augmentation, num_classes)
    model.pretrained_cfg = config  # type: ignore[assignment]
    built = {"architecture": architecture, "num_classes": num_classes, "pretrained_cfg": config}
    arguments = {key: value for key, value in options.items() if key not in ("num_classes", "drop_path_rate")}
    return ClassifierModel(model, from_timm(model), built | {"model_args": arguments}), later


def _pretrained_config(
    model: nn.Module, options: Mapping[str, Any], augmentation: AugmentationSettings, num_classes: int
) -> dict[str, Any]:
    """The description of the model that timm keeps, with what the settings say of its images."""
    config: dict[str, Any] = dict(model.pretrained_cfg)  # type: ignore[arg-type]
    channels, height, width = config["input_size"]
    channels = options.get("in_chans", channels)
    size = options.get("img_size", (height, width))
    height, width = (size, size) if isinstance(size, int) else size
    config |= {"input_size": (channels, height, width), "num_classes": num_classes}
    for source in ("url", "file", "state_dict", "hf_hub_id", "tag", "test_input_size", "test_crop_pct"):
        config.pop(source, None)
    chosen = {
        "mean": augmentation.mean,
        "std": augmentation.std,
        "crop_pct": augmentation.crop_pct,
        "interpolation": None if augmentation.interpolation == "random" else augmentation.interpolation,
    }
    config["custom_load"] = False
    return config | {key: value for key, value in chosen.items() if value is not None}


def _source(model: nn.Module, state: Weights, num_classes: int) -> dict[str, Any]:
    """What makes timm load these weights, all of them, with a fresh head where theirs is of other classes."""
    own = model.state_dict()
    heads = model.pretrained_cfg["classifier"]  # type: ignore[index]
    for head in [heads] if isinstance(heads, str) else list(heads or ()):
        for key in (f"{head}.weight", f"{head}.bias"):
            if key in own and (key not in state or state[key].shape != own[key].shape):
                state = state | {key: own[key]}
    return {"state_dict": state, "num_classes": num_classes, "custom_load": False}


def _from_function(
    settings: ModelSettings, augmentation: AugmentationSettings, num_classes: int
) -> ClassifierModel:
    for name in ("img_size", "drop_path"):
        if getattr(settings, name) is not None:
            raise ValueError(
                f"expected model.{name} to be null for {settings.name}; such a function takes "
                f"--model.options.NAME VALUE"
            )
    if settings.pretrained:
        raise ValueError(
            f"expected model.pretrained to be false for {settings.name}; load weights in the function, or "
            f"give a file with --model.checkpoint"
        )
    for name in ("mean", "std", "crop_pct"):
        if getattr(augmentation, name) is not None:
            raise ValueError(
                f"expected augmentation.{name} to be null for {settings.name}, whose Preprocessing says it"
            )
    source = from_function(settings.name, None, settings.options)
    preprocessing = source.preprocessing
    image = torch.zeros(2, preprocessing.channels, *preprocessing.image_size)
    training = source.model.training
    with told_in_a_sentence(f"{settings.name} fails on images of {tuple(image.shape)}"), torch.no_grad():
        logits = source.model.eval()(image)
    source.model.train(training)
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, num_classes):
        got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ValueError(
            f"expected logits (2, {num_classes}) from {settings.name} for two images of {num_classes} "
            f"classes, got {got}"
        )
    return ClassifierModel(source.model, preprocessing, None)


def _load_own(model: nn.Module, path: Path) -> Weights:
    state, later = split_tap(model, read_state_dict(path)[0])
    check_fit(model, state, path.name)
    model.load_state_dict(state)
    return later


def _put_tap_in(model: nn.Module, settings: ModelSettings, tap: TapSettings, saved: Weights) -> None:
    if not check_tap(settings, tap, saved):
        return
    attach_tap(
        model,
        num_branches=tap.num_branches,
        temperature=tap.temperature,
        init=tap.init,
        blocks=tap.blocks,
    )
    if saved:
        assert settings.checkpoint is not None
        check_fit(model, dict(model.state_dict()) | saved, settings.checkpoint.name)
        model.load_state_dict(saved, strict=False)
