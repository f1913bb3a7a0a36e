"""From a picture to what a model sees: resize, crop, normalise, as the model's own library does it."""

import math
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import timm.data
import torch
from PIL import Image
from torch import nn

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}
CROP_MODES = ("center", "center_floor", "squash", "border", "stored")
IMAGE_MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class Preprocessing:
    """What is done to a picture before a model sees it.

    Corruptions and attacks act on what `prepare` gives; `normalise` comes after them.

    Args:
        image_size: (height, width) that the model takes.
        mean: One number a channel, of values in 0..1; 3 channels are RGB, 1 is gray.
        std: As `mean`.
        crop_pct: Part of a side that the crop keeps, above 0 to 1; the picture is resized to
            floor(image_size / crop_pct) first.
        interpolation: Of the resize, a key of `INTERPOLATIONS`.
        crop_mode: `"center"` keeps the aspect ratio, fits the shorter side and crops in the middle;
            `"center_floor"` is the same with the corner of the crop rounded down, as transformers does it;
            `"squash"` resizes each side; `"border"` fits the longer side and fills up with the mean;
            `"stored"` takes pictures of `image_size` only, and leaves them as they are.

    Raises:
        ValueError: If a value is none of these.

    Example:
        >>> preprocessing = Preprocessing((224, 224), mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=0.875)
        >>> preprocessing.prepare(Image.new("L", (500, 375), 255)).shape
        torch.Size([3, 224, 224])
        >>> preprocessing.normalise(torch.ones(1, 3, 224, 224)).unique()
        tensor([1.])
    """

    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float = 1.0
    interpolation: str = "bicubic"
    crop_mode: str = "center"

    def __post_init__(self) -> None:
        if len(self.image_size) != 2 or min(self.image_size) < 1:
            raise ValueError(f"expected image_size (height, width) in pixels, got {self.image_size}")
        if len(self.mean) not in IMAGE_MODES or len(self.std) != len(self.mean):
            raise ValueError(
                f"expected a mean and a std for 3 channels or for 1, got {len(self.mean)} and {len(self.std)}"
            )
        if min(self.std) <= 0:
            raise ValueError(f"expected a std above 0 of every channel, got {self.std}")
        if not 0 < self.crop_pct <= 1:
            raise ValueError(f"expected a crop_pct above 0 to 1, got {self.crop_pct}")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"expected an interpolation out of {', '.join(INTERPOLATIONS)}, got {self.interpolation!r}"
            )
        if self.crop_mode not in CROP_MODES:
            raise ValueError(f"expected a crop_mode out of {', '.join(CROP_MODES)}, got {self.crop_mode!r}")

    @classmethod
    def from_timm(cls, model: nn.Module) -> Self:
        """As `timm.data.create_transform` does it for the model; the same pixels.

        Raises:
            ValueError: If the model's configuration is for another number of channels than its mean.
        """
        config = timm.data.resolve_model_data_config(model)
        channels, *image_size = config["input_size"]
        mean, std = tuple(config["mean"]), tuple(config["std"])
        if len(mean) != channels or len(std) != channels:
            raise ValueError(
                f"expected a mean and a std of {channels} channels in the configuration of "
                f"{type(model).__name__}, got {len(mean)} and {len(std)}; "
                f"use a function of your own that returns (model, Preprocessing)"
            )
        names = ("crop_pct", "interpolation", "crop_mode")
        return cls((image_size[0], image_size[1]), mean, std, **{name: config[name] for name in names})

    @classmethod
    def from_torchvision(cls, transforms: Any) -> Self:
        """As the transforms of torchvision's weights, `Weights.transforms()`, do it; the same pixels.

        Raises:
            ValueError: If they are not those of a classifier.
        """
        try:
            (crop,), (size,) = transforms.crop_size, transforms.resize_size
            mean, std, interpolation = transforms.mean, transforms.std, transforms.interpolation.value
        except (AttributeError, TypeError, ValueError):
            raise ValueError(
                f"expected the transforms of a classifier of torchvision, got {type(transforms).__name__}"
            ) from None
        return cls((crop, crop), tuple(mean), tuple(std), _crop_pct(crop, size), interpolation)

    @classmethod
    def from_transformers(cls, processor: Any) -> Self:
        """As an image processor of transformers does it.

        Processors that resize tensors round otherwise than Pillow: values differ by one 8-bit step at most.

        Raises:
            ValueError: If the processor does something that this class cannot: padding, BGR, sides in other
                proportions than the crop, no fixed size at the end.
        """
        options = processor.to_dict()
        refused = [
            name for name in ("do_pad", "do_flip_channel_order", "do_reduce_labels") if options.get(name)
        ]
        refused += [name for name in ("do_resize", "do_rescale") if not options.get(name, True)]
        if refused:
            raise ValueError(
                f"cannot do what {type(processor).__name__} does: {refused[0]} is {options[refused[0]]}; "
                f"use a function of your own that returns (model, Preprocessing)"
            )
        resized, crop, crop_mode = _transformers_sizes(processor, options)
        crop_pct = _crop_pct(crop[0], resized[0])
        if [math.floor(side / crop_pct) for side in crop] != list(resized):
            raise ValueError(
                f"expected a crop in the proportions of the picture from {type(processor).__name__}, "
                f"got {crop} out of {resized}"
            )
        mean, std = _transformers_statistics(options)
        interpolation = Image.Resampling(options["resample"]).name.lower()
        return cls(crop, mean, std, crop_pct, interpolation, crop_mode)

    @property
    def channels(self) -> int:
        """3 for RGB, 1 for gray."""
        return len(self.mean)

    def as_stored(self) -> Self:
        """For pictures that were cropped to the size of the model when they were stored, as ImageNet-C was.

        Its `prepare` neither resizes nor crops, and refuses pictures of another size.
        """
        return replace(self, crop_pct=1.0, crop_mode="stored")

    def prepare(self, image: Image.Image) -> torch.Tensor:
        """The picture as the model's library resizes and crops it.

        Args:
            image: Of any size and any mode of 8 bits a channel.

        Returns:
            (channels, height, width), uint8.

        Raises:
            ValueError: If the picture has more than 8 bits a channel, or a stored one another size.
        """
        image = _convert(image, IMAGE_MODES[self.channels])
        height, width = self.image_size
        if self.crop_mode != "stored":
            image = self._crop(image.resize(self._resized(image), INTERPOLATIONS[self.interpolation]))
        elif image.size != (width, height):
            raise ValueError(
                f"expected stored pictures of the model's size, {height} x {width} pixels (height x width), "
                f"got {image.height} x {image.width}; take the folder stored at that size, or corrupt the "
                f"original pictures on the fly"
            )
        pixels = torch.from_numpy(np.array(image)).view(height, width, self.channels)
        return pixels.permute(2, 0, 1).contiguous()

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """(images - mean) / std, by channel.

        Args:
            images: (..., channels, height, width), floating point, in 0..1.

        Raises:
            ValueError: If the images are integers, or have another number of channels.
        """
        if not images.is_floating_point() or images.ndim < 3 or images.shape[-3] != self.channels:
            raise ValueError(
                f"expected floating point images (..., {self.channels}, height, width) in 0..1, "
                f"got {tuple(images.shape)} of {images.dtype}"
            )
        mean, std = images.new_tensor(self.mean), images.new_tensor(self.std)
        return (images - mean[:, None, None]) / std[:, None, None]

    def _resized(self, image: Image.Image) -> tuple[int, int]:
        """(width, height) before the crop."""
        height, width = (math.floor(side / self.crop_pct) for side in self.image_size)
        if self.crop_mode == "squash":
            return width, height
        if height == width and self.crop_mode != "border":  # torchvision's rule, where timm uses it too
            short, long = sorted(image.size)
            long = int(height * long / short)
            return (height, long) if image.width <= image.height else (long, height)
        fit = max if self.crop_mode == "border" else min
        ratio = fit(image.height / height, image.width / width)
        return round(image.width / ratio), round(image.height / ratio)

    def _crop(self, image: Image.Image) -> Image.Image:
        height, width = self.image_size
        corner = (self._offset(image.width, width), self._offset(image.height, height))
        if image.width >= width and image.height >= height:
            return image.crop((*corner, corner[0] + width, corner[1] + height))
        fill = tuple(round(255 * value) for value in self.mean)
        canvas = Image.new(image.mode, (width, height), fill if self.channels > 1 else fill[0])
        canvas.paste(image, (-corner[0], -corner[1]))
        return canvas

    def _offset(self, side: int, crop: int) -> int:
        """Where the crop begins; negative where the picture is smaller."""
        if side < crop:
            return -((crop - side) // 2)
        return (side - crop) // 2 if self.crop_mode == "center_floor" else round((side - crop) / 2)


def _convert(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"expected a picture of 8 bits a channel, got one of mode {image.mode}")
    if "transparency" in image.info:  # Pillow warns of palettes with transparency unless it goes through RGBA
        image = image.convert("RGBA")
    return image.convert(mode)


def _crop_pct(crop: int, resized: int) -> float:
    """The largest share with floor(crop / share) = resized, whatever the division rounds to."""
    share = crop / resized
    while math.floor(crop / share) < resized:
        share = math.nextafter(share, 0)
    return share


Size = tuple[int, int]


def _transformers_sizes(processor: Any, options: dict[str, Any]) -> tuple[Size, Size, str]:
    """Size after the resize and after the crop, and the crop_mode."""
    size, crop = _sides(options.get("size")), None
    if options.get("do_center_crop"):
        crop = _sides(options.get("crop_size"))
    edge = (options.get("size") or {}).get("shortest_edge")
    if edge and "crop_pct" in options and crop is None:  # ConvNeXT: a crop up to 383 pixels, squashed above
        if edge >= 384:
            return (edge, edge), (edge, edge), "squash"
        resized = int(edge / options["crop_pct"])
        return (resized, resized), (edge, edge), "center_floor"
    if edge and crop is not None and "crop_pct" not in options:
        return (edge, edge), crop, "center_floor"
    if size is not None and "crop_pct" not in options:
        return size, crop or size, "squash"
    raise ValueError(
        f"expected a height and a width, or a shortest edge and a crop, from {type(processor).__name__}, "
        f"got size {options.get('size')} and crop {options.get('crop_size')}; "
        f"use a function of your own that returns (model, Preprocessing)"
    )


def _sides(size: Any) -> Size | None:
    size = size or {}
    return (size["height"], size["width"]) if size.get("height") and size.get("width") else None


def _transformers_statistics(options: dict[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of values in 0..1; processors count from 0..255 times rescale_factor."""
    mean, std = options.get("image_mean") or [0.0] * 3, options.get("image_std") or [1.0] * 3
    if not options.get("do_normalize", True):
        mean, std = [0.0] * 3, [1.0] * 3
    scale = 255 * options.get("rescale_factor", 1 / 255)
    offset = float(bool(options.get("rescale_offset")))
    return tuple((value + offset) / scale for value in mean), tuple(value / scale for value in std)
