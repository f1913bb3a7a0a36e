"""Released checkpoints of FAN and RVT into models of this package, and back: one table of names.

Classifiers, and segmenters (`Segmenter`), whose weights stand under `backbone.` and `decode_head.`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

import timm
import torch

from tapadl.models.registry import TAP_PREFIX, VARIANTS
from tapadl.models.segformer import build_segmenter

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Renaming:
    """Names that differ; `{n}` is a number, which is `shift` higher on our side."""

    official: str
    ours: str
    shift: int = 0

    def to_ours(self, key: str) -> str:
        """A name of the released models as one of ours; one that is not meant stays as it is."""
        return _renamed(key, self.official, self.ours, self.shift)

    def to_official(self, key: str) -> str:
        """The way back."""
        return _renamed(key, self.ours, self.official, -self.shift)


_TAP = Renaming("blocks.{n}.dilation_predictor.", "blocks.{n}.tap.dilation_predictor.")
# Swin's own release pools behind a stage, timm in front of the next; its head is a plain linear layer.
_SWIN = (
    Renaming("layers.{n}.downsample.", "layers.{n}.downsample.", shift=1),
    Renaming("head.", "head.fc."),
)
# What released Swin models keep in their state_dict although the settings tell it; timm computes it.
_COMPUTED = ("relative_position_index", "attn_mask")
# A classifier of pixels that MMSegmentation gives every head and SegFormer's does not use.
_UNUSED = "decode_head.conv_seg."

RELEASED_SEGMENTER = {"paired_frequencies": False}
"""Arguments of `build_segmenter` for the released weights: their position table misses a floor."""


def from_official(state_dict: Weights, model_name: str) -> Weights:
    """Weights of a released FAN or RVT model, by the names of ours.

    Those of a segmenter are for `build_segmenter(model_name, ..., **RELEASED_SEGMENTER)`, else the model
    computes something else; the unused `conv_seg` is left out.

    Args:
        state_dict: As `read_state_dict` gives it.
        model_name: An official name, such as "tap_fan_base_16_p4_hybrid". The number of classes is that of
            the weights.

    Returns:
        The same tensors, complete for `timm.create_model(model_name, num_classes=...)`, or for the segmenter.

    Raises:
        ValueError: If the name is unknown, or the weights are of another model; says which differ.

    Example:
        >>> model = timm.create_model("tap_rvt_tiny", num_classes=3)
        >>> released = to_official(model.state_dict(), "tap_rvt_tiny")
        >>> "transformers.0.blocks.0.dilation_predictor.proj.0.weight" in released
        True
        >>> from_official(released, "tap_rvt_tiny").keys() == model.state_dict().keys()
        True
    """
    check_name(model_name)
    ours = {_apply(key, model_name): tensor for key, tensor in state_dict.items() if not _is_left_out(key)}
    _check_complete(ours, model_name)
    return ours


def to_official(state_dict: Weights, model_name: str) -> Weights:
    """Weights of one of our models by the names of the release: the inverse of `from_official`.

    Args:
        state_dict: Of `timm.create_model(model_name)`, or of a segmenter with this backbone.
        model_name: An official name.

    Raises:
        ValueError: If the name is unknown.
    """
    check_name(model_name)
    official = {}
    for key, tensor in state_dict.items():
        for renaming in reversed(_renamings(model_name)):
            key = renaming.to_official(key)
        official[key] = tensor
    return official


def num_classes_of(weights: Weights, model_name: str) -> int:
    """Classes that the head in these weights (by our names) tells apart; 0 without a head."""
    cfg = timm.get_pretrained_cfg(model_name)
    return 0 if cfg is None else _num_outputs(weights, f"{cfg.classifier}.weight")


def holds_segmenter(weights: Weights) -> bool:
    """Whether these are the weights of a `Segmenter`, not of a classifier."""
    return any(key.startswith("decode_head.") for key in weights)


def segmenter_options(weights: Weights) -> dict[str, Any]:
    """What the weights of a segmenter tell of the arguments of `build_segmenter`."""
    return {
        "num_classes": _num_outputs(weights, "decode_head.linear_pred.weight") or 1,
        "head_dim": _num_outputs(weights, "decode_head.linear_fuse.conv.weight") or 1,
    }


def check_name(model_name: str) -> None:
    """Raise ValueError unless this is a model of ours."""
    if model_name.removeprefix(TAP_PREFIX) not in VARIANTS:
        raise ValueError(
            f"expected a model out of {', '.join(VARIANTS)}, or one of these after {TAP_PREFIX!r}, "
            f"got {model_name!r}"
        )


def _num_outputs(weights: Weights, key: str) -> int:
    """Outputs of the layer with this weight; 0 without it."""
    return prod(weights[key].shape[:1]) if key in weights else 0


def _renamings(model_name: str) -> tuple[Renaming, ...]:
    return (_TAP, *_SWIN) if "fan_swin" in model_name else (_TAP,)


def _apply(key: str, model_name: str) -> str:
    for renaming in _renamings(model_name):
        key = renaming.to_ours(key)
    return key


def _is_left_out(key: str) -> bool:
    return key.startswith(_UNUSED) or (key.endswith(_COMPUTED) and "att_mask" not in key)


def _renamed(key: str, pattern: str, template: str, shift: int) -> str:
    expression = re.escape(pattern).replace(r"\{n\}", r"(\d+)")
    found = re.search(rf"(?:^|\.){expression}", key)
    if found is None:
        return key
    number = str(int(found[1]) + shift) if found.groups() else ""
    start = found.start() + (1 if key[found.start()] == "." else 0)
    return key[:start] + template.replace("{n}", number) + key[found.end() :]


def _check_complete(weights: Weights, model_name: str) -> None:
    with torch.device("meta"):
        model: torch.nn.Module = (
            build_segmenter(model_name, **segmenter_options(weights))
            if holds_segmenter(weights)
            else timm.create_model(model_name, num_classes=num_classes_of(weights, model_name))
        )
    wanted = model.state_dict()
    has_tap = any(".tap." in key for key in weights)
    if model_name.startswith(TAP_PREFIX) != has_tap:
        held, other = ("TAP", "with") if has_tap else ("no TAP", "without")
        hint = model_name.removeprefix(TAP_PREFIX) if not has_tap else TAP_PREFIX + model_name
        raise ValueError(
            f"the weights hold {held}, so they are not of {model_name}; the model {other} it is {hint}"
        )
    problems = [f"without {_some(wanted.keys() - weights.keys())}"] if wanted.keys() - weights.keys() else []
    if weights.keys() - wanted.keys():
        problems.append(f"with {_some(weights.keys() - wanted.keys())} too much")
    shared = {key: (tensor, wanted[key]) for key, tensor in weights.items() if key in wanted}
    different = [
        f"{key} of shape {tuple(tensor.shape)} instead of {tuple(other.shape)}"
        for key, (tensor, other) in shared.items()
        if tensor.shape != other.shape
    ]
    different += [
        f"{key} in {tensor.dtype} instead of {other.dtype}"
        for key, (tensor, other) in shared.items()
        if tensor.is_floating_point() != other.is_floating_point() or tensor.is_complex()
    ]
    problems += different[:2]
    if problems:
        raise ValueError(f"the weights are not of {model_name}: {'; '.join(problems)}")


def _some(keys: Iterable[str]) -> str:
    ordered = sorted(keys)
    rest = f" and {len(ordered) - 2} more" if len(ordered) > 2 else ""
    return ", ".join(ordered[:2]) + rest
