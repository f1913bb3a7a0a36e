"""The preprocessing that timm, torchvision and transformers declare for their models."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.config import resolve_model_data_config
from torch import nn

from tapadl.evaluation.preprocessing import IMAGE_MODES, Preprocessing

OWN_FUNCTION = "use a function of your own that returns (model, Preprocessing)"
PROBE_SIZES = ((341, 256), (240, 427))  # width, height: both orientations, odd and even margins

Size = tuple[int, int]


def from_timm(model: nn.Module) -> Preprocessing:
    """What `timm.data.create_transform` does for the model: the same pixels.

    Args:
        model: With a `pretrained_cfg`, as every timm model has it.

    Raises:
        ValueError: If its mean is for another number of channels than it takes.
    """
    config = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    return _from_timm_config(config, type(model).__name__)


def from_torchvision(transforms: Any) -> Preprocessing:
    """What the transforms of torchvision's weights do: the same pixels.

    Args:
        transforms: `Weights.transforms()` of a classifier.

    Raises:
        ValueError: If they are not those of a classifier.

    Example:
        >>> from torchvision.models import ViT_B_16_Weights
        >>> from_torchvision(ViT_B_16_Weights.DEFAULT.transforms()).crop_pct
        0.875
    """
    try:
        (crop,), (size,) = transforms.crop_size, transforms.resize_size
        mean, std, interpolation = transforms.mean, transforms.std, transforms.interpolation.value
    except (AttributeError, TypeError, ValueError):
        raise ValueError(
            f"expected the transforms of a classifier of torchvision, got {type(transforms).__name__}"
        ) from None
    return Preprocessing((crop, crop), tuple(mean), tuple(std), _crop_pct(crop, size), interpolation)


def from_transformers(processor: Any) -> Preprocessing:
    """What an image processor of transformers does: the same pixels.

    A processor is free to do anything, so it is compared with what is found here on two pictures.

    Args:
        processor: `AutoImageProcessor.from_pretrained(...)`.

    Raises:
        ValueError: If it does something else, such as BGR, padding or colour palettes.
    """
    name = type(processor).__name__
    options = processor.to_dict()
    if "data_config" in options:
        return _from_timm_config(options["data_config"], name)
    for candidate in _candidates(options):
        if _agrees(candidate, processor):
            return candidate
    raise ValueError(
        f"cannot do what {name} does to a picture (size {options.get('size')}, "
        f"crop {options.get('crop_size')}); {OWN_FUNCTION}"
    )


def _from_timm_config(config: dict[str, Any], owner: str) -> Preprocessing:
    channels, height, width = config["input_size"]
    mean, std = tuple(config["mean"]), tuple(config["std"])
    if len(mean) != channels or len(std) != channels:
        raise ValueError(
            f"expected a mean and a std of {channels} channels in the configuration of {owner}, "
            f"got {len(mean)} and {len(std)}; {OWN_FUNCTION}"
        )
    return Preprocessing(
        (height, width), mean, std, config["crop_pct"], config["interpolation"], config["crop_mode"]
    )


def _crop_pct(crop: int, resized: int) -> float:
    """The largest share for which floor(crop / share) is `resized`, whatever the division rounds to."""
    share = crop / resized
    while math.floor(crop / share) < resized:
        share = math.nextafter(share, 0)
    return share


def _candidates(options: dict[str, Any]) -> Iterator[Preprocessing]:
    """What a processor with these options may do."""
    mean, std = _statistics(options)
    interpolation = Image.Resampling(options.get("resample", Image.Resampling.BILINEAR)).name.lower()
    for resized, crop, crop_mode in _sizes(options):
        if crop[0] > resized[0]:
            continue
        crop_pct = _crop_pct(crop[0], resized[0])
        if math.floor(crop[1] / crop_pct) == resized[1]:
            for resampler in ("torch", "pillow"):
                yield Preprocessing(crop, mean, std, crop_pct, interpolation, crop_mode, resampler)


def _sizes(options: dict[str, Any]) -> Iterator[tuple[Size, Size, str]]:
    """Size after the resize, size after the crop, and crop_mode."""
    size, crop = _sides(options.get("size")), None
    if options.get("do_center_crop"):
        crop = _sides(options.get("crop_size"))
    if size:
        yield size, crop or size, "squash"
    edge = (options.get("size") or {}).get("shortest_edge")
    if edge:
        end = crop or (edge, edge)
        for resized in (edge, int(edge / (options.get("crop_pct") or 1)), int(256 / 224 * edge)):
            yield (resized, resized), end, "center_floor"
        yield (edge, edge), end, "squash"


def _sides(size: dict[str, int] | None) -> Size | None:
    return (size["height"], size["width"]) if size and size.get("height") and size.get("width") else None


def _statistics(options: dict[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of values in 0..1; a processor has them of values in 0..255 times its rescale_factor."""
    mean, std = options.get("image_mean"), options.get("image_std")
    if not options.get("do_normalize") or mean is None or std is None:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    scale = 255 * options.get("rescale_factor", 1 / 255) if options.get("do_rescale") else 255.0
    offset = 1.0 if options.get("rescale_offset") else 0.0
    times = std if options.get("include_top") else (1.0,) * len(std)  # EfficientNet divides by std twice
    return (
        tuple((value + offset) / scale for value in mean),
        tuple(value * again / scale for value, again in zip(std, times, strict=True)),
    )


def _agrees(candidate: Preprocessing, processor: Any) -> bool:
    """Whether both make the same pixels of the probe pictures."""
    step = torch.tensor(candidate.std).mul(255)[:, None, None]
    for width, height in PROBE_SIZES:
        values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        picture = Image.fromarray(values).convert(IMAGE_MODES[candidate.channels])
        try:
            expected = processor(images=picture, return_tensors="pt")["pixel_values"][0]
            got = candidate.normalise(candidate.prepare(picture).float() / 255)
        except (ValueError, TypeError, RuntimeError, KeyError):
            return False
        if expected.shape != got.shape or ((expected - got) * step).abs().max() > 0.01:
            return False
    return True
