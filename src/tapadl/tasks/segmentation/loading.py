"""A segmenter that somebody names: a file of weights, or a function of their own."""

from pathlib import Path
from typing import Any

from torch import nn

from tapadl.data.segmentation import LabelScheme
from tapadl.evaluation.sources.function import FUNCTION, call_function
from tapadl.evaluation.weights import weights_sha256
from tapadl.tasks.segmentation.model import LoadedSegmenter, SegmenterDescription, load_trained


def open_segmenter(spec: str) -> LoadedSegmenter:
    """The segmenter of a name, ready to answer.

    Args:
        spec: The path of a `.safetensors` file of `tapadl train` or `tapadl convert`; or `module:function`,
            importable from the current folder, which returns (model, description). The model takes normalised
            images (B, 3, H, W) and gives logits (B, classes, h, w); the description is a
            `SegmenterDescription`, or anything with its `scheme`, `mean` and `std`.

    Raises:
        OSError: If the file is missing.
        ValueError: If it is none of these.
    """
    if FUNCTION.fullmatch(spec):
        return _from_function(spec)
    if not spec.endswith(".safetensors"):
        raise ValueError(
            f"expected a segmenter as a .safetensors file of tapadl train or tapadl convert, or as "
            f"module:function, got {spec}"
        )
    path = Path(spec)
    if not path.is_file():
        raise FileNotFoundError(f"expected weights in {path}, but there is no such file")
    loaded = load_trained(path)
    loaded.model.requires_grad_(False)
    return loaded


def _from_function(spec: str) -> LoadedSegmenter:
    result = call_function(spec, {})
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], nn.Module)):
        raise ValueError(
            f"expected {spec} to return (model, description): a torch.nn.Module and something with scheme, "
            f"mean and std, such as a SegmenterDescription, got {type(result).__name__}"
        )
    model, given = result
    model.eval().requires_grad_(False)
    description = given if isinstance(given, SegmenterDescription) else _described(spec, model, given)
    return LoadedSegmenter(spec, model, description, weights_sha256(model))


def _described(spec: str, model: nn.Module, given: Any) -> SegmenterDescription:
    scheme, mean, std = (getattr(given, name, None) for name in ("scheme", "mean", "std"))
    if not isinstance(scheme, LabelScheme) or mean is None or std is None:
        raise ValueError(
            f"expected a description with scheme (a LabelScheme), mean and std from {spec}, "
            f"got {type(given).__name__}"
        )
    try:
        return SegmenterDescription(type(model).__name__, scheme, tuple(mean), tuple(std))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{error}, in the description from {spec}") from None
