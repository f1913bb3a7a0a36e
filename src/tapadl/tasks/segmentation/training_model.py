"""The segmenter of a training run: built with random or given weights, TAP inside."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from tapadl.attach import attach_tap
from tapadl.attach.site import find_sites
from tapadl.data.segmentation import LabelScheme
from tapadl.evaluation.sources.source import told_in_a_sentence
from tapadl.evaluation.weights import check_fit
from tapadl.models.checkpoint import read_state_dict
from tapadl.models.convert import holds_segmenter
from tapadl.models.registry import TAP_PREFIX
from tapadl.models.segformer import Segmenter
from tapadl.tasks.segmentation.model import SegmenterDescription
from tapadl.tasks.starting_point import Weights, check_name, check_tap, checkpoint_gradients, split_tap
from tapadl.training.settings import Settings

_CLASSES = "decode_head.linear_pred."


@dataclass(frozen=True)
class SegmenterModel:
    """A segmenter to train, and how others build it again.

    Args:
        model: (B, 3, H, W) normalised images -> (B, num_classes, H, W) logits.
        description: As it stands in the file of its weights.
    """

    model: Segmenter
    description: SegmenterDescription

    def blocks(self) -> list[nn.Module]:
        """The blocks around its attentions, in order; none where none is known."""
        try:
            return list(dict.fromkeys(site.block for site in find_sites(self.model)))
        except ValueError:
            return []


def build_model(settings: Settings, scheme: LabelScheme) -> SegmenterModel:
    """The segmenter that the settings ask for; its random weights follow from `training.seed`.

    It begins with the weights of a classifier, without the head and what else a segmenter leaves out, or with
    those of a segmenter, whose last layer is made anew for other classes. With the same seed the model with
    TAP has the weights of the plain one beside those of TAP.

    Args:
        settings: Of the run.
        scheme: The classes.

    Raises:
        ValueError: If the backbone is not known or cannot be built, or weights do not fit.
        OSError: If weights have to be downloaded and cannot be.

    Example:
        >>> from tapadl.data.segmentation import CITYSCAPES
        >>> from tapadl.training.settings import DataSettings, ModelSettings
        >>> vit = ModelSettings("vit_tiny_patch16_224", options={"depth": 2})
        >>> settings = Settings(vit, DataSettings("scenes"), task="segmentation")
        >>> build_model(settings, CITYSCAPES).model(torch.zeros(1, 3, 32, 48)).shape
        torch.Size([1, 19, 32, 48])
    """
    check_name(settings.model)
    torch.manual_seed(settings.training.seed)
    description = _described(settings, scheme)
    drop_path = settings.model.drop_path
    further: dict[str, Any] = {} if drop_path is None else {"drop_path_rate": drop_path}
    plain = replace(description, tap=None)
    with told_in_a_sentence(
        f"could not build {plain.backbone} with {json.dumps(plain.options, default=str)}"
    ):
        model = plain.build(pretrained=settings.model.pretrained, **further)
    later: Weights = {}
    checkpoint = settings.model.checkpoint
    if checkpoint is not None:
        state = read_state_dict(checkpoint)[0]
        if holds_segmenter(state):
            later = state
        else:
            left_out = _left_out(plain, model)
            state = {key: weight for key, weight in state.items() if key not in left_out}
            state, tap = split_tap(model.backbone, state)
            # timm loads the whole classifier, strictly, before the backbone is cut to size
            whole = state | {key: torch.zeros(shape) for key, shape in left_out.items()}
            further["pretrained_cfg_overlay"] = {"state_dict": whole, "custom_load": False}
            with told_in_a_sentence(f"the weights in {checkpoint.name} do not fit {plain.backbone}"):
                model = plain.build(pretrained=True, **further)
            later = {f"backbone.{key}": weight for key, weight in tap.items()}
    if check_tap(settings.model, settings.tap, split_tap(model, later)[1]):
        assert description.tap is not None
        attach_tap(model, **description.tap)
    if checkpoint is not None:
        _load(model, later, checkpoint)
    if settings.training.grad_checkpointing:
        checkpoint_gradients(model.backbone, plain.backbone)
    return SegmenterModel(model, description)


def _described(settings: Settings, scheme: LabelScheme) -> SegmenterDescription:
    name, tap, augmentation = settings.model.name, settings.tap, settings.augmentation
    with told_in_a_sentence(f"could not build {name}"):  # its tag may be unknown
        config = timm.get_pretrained_cfg(name, allow_unregistered=False)
    assert config is not None
    mean, std = augmentation.mean or tuple(config.mean), augmentation.std or tuple(config.std)
    if len(mean) != 3:
        raise ValueError(f"expected augmentation.mean of the 3 channels of pictures, got {len(mean)}")
    arguments = {name: getattr(tap, name) for name in ("num_branches", "temperature", "init", "blocks")}
    return SegmenterDescription(
        name,
        scheme,
        mean,
        std,
        head_dim=settings.segmentation.head_dim,
        out_indices=settings.segmentation.out_indices,
        tap=arguments if tap.enabled and not name.startswith(TAP_PREFIX) else None,
        options=settings.model.options,
    )


def _left_out(description: SegmenterDescription, model: Segmenter) -> dict[str, torch.Size]:
    """What the classifier has, by name and shape, and the backbone of the segmenter has not."""
    with torch.device("meta"):
        classifier = timm.create_model(description.backbone, **description.options)
    kept = model.backbone.state_dict()
    return {key: weight.shape for key, weight in classifier.state_dict().items() if key not in kept}


def _load(model: nn.Module, later: Mapping[str, torch.Tensor], path: Path) -> None:
    """Load what timm has not; new are TAP if the file has none, and a last layer for other classes."""
    own = model.state_dict()
    given = {
        key: weight
        for key, weight in later.items()
        if not key.startswith(_CLASSES) or key not in own or own[key].shape == weight.shape
    }
    has_tap = any(".tap." in key for key in given)
    whole = holds_segmenter(dict(later))
    new = {
        key: weight
        for key, weight in own.items()
        if key not in given and (not whole or key.startswith(_CLASSES) or (".tap." in key and not has_tap))
    }
    check_fit(model, new | given, path.name)
    model.load_state_dict(new | given)
