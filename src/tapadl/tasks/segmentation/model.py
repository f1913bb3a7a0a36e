"""A segmenter with all that is needed to use it: built, written into one file, and read back."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import timm
from safetensors import safe_open
from torch import nn

from tapadl.attach import attach_tap
from tapadl.data.segmentation import CITYSCAPES, LabelScheme
from tapadl.evaluation.sources.source import told_in_a_sentence
from tapadl.models.checkpoint import read_state_dict
from tapadl.models.registry import TAP_PREFIX
from tapadl.models.segformer import Segmenter, build_segmenter
from tapadl.models.sharing import DESCRIPTION, load_segmenter
from tapadl.ops.numbers import is_number

LOADING = {
    *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"),
    *("features_only", "pretrained_strict", "pretrained_filter_fn", "model_name"),
}
"""Arguments of `timm.create_model` that are none of the model."""


@dataclass(frozen=True)
class SegmenterDescription:
    """What a segmenter is besides its weights.

    Args:
        backbone: Its name in timm.
        scheme: The classes, one for each output.
        mean: Of each channel in 0..1; images are normalised with it.
        std: Of each channel in 0..1.
        head_dim: Width of the head.
        out_indices: Features that the head takes; None for those that `build_segmenter` chooses.
        tap: Arguments of `attach_tap`; None for none, also for a backbone that has TAP built in.
        options: Further arguments of the backbone.

    Raises:
        ValueError: If mean and std are not three numbers each, std above 0, or an option says what to load.

    Example:
        >>> import torch
        >>> scheme = LabelScheme(("off", "on"), (0, 1), (), ((0, 0, 0), (255, 255, 255)))
        >>> description = SegmenterDescription("vit_tiny_patch16_224", scheme, (0.5,) * 3, (0.5,) * 3, 32)
        >>> description.build()(torch.zeros(1, 3, 32, 48)).shape
        torch.Size([1, 2, 32, 48])
        >>> SegmenterDescription.from_text(description.to_text()) == description
        True
    """

    backbone: str
    scheme: LabelScheme
    mean: tuple[float, ...]
    std: tuple[float, ...]
    head_dim: int = 768
    out_indices: tuple[int, ...] | None = None
    tap: Mapping[str, Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, numbers in {"mean": self.mean, "std": self.std}.items():
            right = len(numbers) == 3 and all(is_number(one) and math.isfinite(one) for one in numbers)
            if not right or (name == "std" and min(numbers) <= 0):
                above = ", above 0," if name == "std" else ""
                raise ValueError(f"expected three numbers{above} as {name}, got {numbers}")
        # a stranger's file may describe a model, not what is opened or fetched to build it
        loading = sorted(set(self.options) & LOADING)
        if loading:
            raise ValueError(
                f"expected options of the backbone itself, got {loading[0]}, which loads something"
            )

    def build(self, **start: Any) -> Segmenter:
        """The segmenter with random weights.

        Args:
            start: Of `timm.create_model`, what the backbone starts from: `pretrained`, `checkpoint_path`.

        Raises:
            ValueError: If there is no such backbone, or TAP does not fit.
        """
        segmenter = build_segmenter(
            self.backbone,
            self.scheme.num_classes,
            head_dim=self.head_dim,
            out_indices=self.out_indices,
            **self.options,
            **start,
        )
        return segmenter if self.tap is None else attach_tap(segmenter, **self.tap)

    def to_text(self) -> str:
        """As JSON, for the metadata of a file of weights."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> Self:
        """What `to_text` gave.

        Raises:
            ValueError: If the text is anything else.
        """
        try:
            values = json.loads(text)
            scheme = values.pop("scheme")
            colours = tuple(tuple(colour) for colour in scheme.pop("colours"))
            values |= {"scheme": LabelScheme(colours=colours, **_with_tuples(scheme))}
            if values["tap"] is not None:
                values["tap"] = _with_tuples(values["tap"])
            return cls(**_with_tuples(values))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(
                f"expected the description of a segmenter, got a damaged one ({error})"
            ) from None


def _with_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


@dataclass(frozen=True, eq=False)
class LoadedSegmenter:
    """A segmenter to evaluate.

    Args:
        name: As in results.
        model: (B, 3, H, W) normalised images -> (B, num_classes, H, W) logits, in evaluation mode.
        description: What else is known of it.
        weights_sha256: Of the file; of a function's model, of its state_dict.
    """

    name: str
    model: nn.Module
    description: SegmenterDescription
    weights_sha256: str


def load_trained(path: Path) -> LoadedSegmenter:
    """The segmenter in a file that `tapadl train` or `tapadl convert` has written.

    Released weights, which `tapadl convert` reads, are those of Cityscapes and of images normalised as the
    backbone's.

    Raises:
        OSError: If the file is missing.
        ValueError: If it is no such file, or its weights do not fit what it says of them.
    """
    if path.suffix != ".safetensors":
        raise ValueError(
            f"expected a .safetensors file of tapadl train or tapadl convert, got {path}; "
            f"convert a released checkpoint with `tapadl convert`"
        )
    weights, _ = read_state_dict(path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    with safe_open(path, "pt") as file:
        metadata: dict[str, str] = file.metadata() or {}
    if DESCRIPTION in metadata:
        description = SegmenterDescription.from_text(metadata[DESCRIPTION])
        if not timm.is_model(description.backbone.split(".")[0]):
            raise ValueError(
                f"expected the name of a model of timm as backbone in {path}, got {description.backbone!r}"
            )
        with told_in_a_sentence(f"could not build the segmenter that {path.name} describes"):
            model = description.build()
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            first = str(error).splitlines()[1].strip()
            raise ValueError(f"expected weights of the described segmenter in {path}, got {first}") from None
        return LoadedSegmenter(description.backbone, model.eval(), description, sha256)
    model = load_segmenter(path)
    name = metadata["model_name"]
    return LoadedSegmenter(name, model.eval(), _released(name, model, path), sha256)


def _released(name: str, model: Segmenter, path: Path) -> SegmenterDescription:
    classes = model.decode_head.get_submodule("linear_pred").out_channels
    if classes != CITYSCAPES.num_classes:
        raise ValueError(
            f"expected the {CITYSCAPES.num_classes} classes of Cityscapes in {path}, which does not name its "
            f"classes, got {classes}"
        )
    cfg = timm.get_pretrained_cfg(name.removeprefix(TAP_PREFIX))
    assert cfg is not None  # of a model of ours
    return SegmenterDescription(name, CITYSCAPES, tuple(cfg.mean), tuple(cfg.std))
