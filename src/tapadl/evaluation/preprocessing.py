"""From a picture to what a model sees: resize, crop, normalise."""

import math
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from PIL import Image

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}
CROP_MODES = ("center", "center_floor", "squash", "border", "stored")
RESAMPLERS = ("pillow", "torch")
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
        resampler: What resizes: `"pillow"`, as timm and torchvision do, or `"torch"`, as transformers does;
            they differ by a few of 255 steps.

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
    resampler: str = "pillow"

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
        if self.resampler not in RESAMPLERS:
            raise ValueError(f"expected a resampler out of {', '.join(RESAMPLERS)}, got {self.resampler!r}")

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
            image = self._crop(self._resize(image))
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

    def _resize(self, image: Image.Image) -> Image.Image:
        width, height = self._resized(image)
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and width * height > limit:
            raise ValueError(
                f"expected a picture of another shape than {image.width} x {image.height} pixels, which "
                f"would be resized to {width} x {height} before it is cropped; the limit is {limit} pixels"
            )
        if self.resampler == "pillow":
            return image.resize((width, height), INTERPOLATIONS[self.interpolation])
        # here, for it takes as long to load as all the rest, in every process that prepares pictures
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2.functional import pil_to_tensor, resize, to_pil_image

        mode = InterpolationMode(self.interpolation)
        pixels = resize(pil_to_tensor(image), [height, width], interpolation=mode, antialias=True)
        resized: Image.Image = to_pil_image(pixels)
        return resized

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
