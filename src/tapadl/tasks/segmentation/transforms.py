"""What a scene and its mask go through together before a segmenter is trained on them."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from tapadl.data.segmentation.labels import IGNORE, Mask

TRIES = 10


class RandomScale(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """The scene at a size drawn evenly from a range of factors on its own.

    Args:
        scale: The least and the largest factor.
    """

    def __init__(self, scale: tuple[float, float]) -> None:
        super().__init__()
        self.scale = scale

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """The size, (rows, cols)."""
        factor = torch.empty(()).uniform_(*self.scale).item()
        return {"size": [max(1, round(side * factor)) for side in v2.query_size(flat_inputs)]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Bilinear for the picture; torchvision takes the nearest pixel of masks."""
        return F.resize(inpt, params["size"], antialias=True)


class RandomCrop(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """A part of the scene, drawn anew as long as one class has too large a share of its labelled pixels.

    After 10 draws the last one stays. Scenes that are smaller than the crop stay as they are.

    Args:
        size: (rows, cols).
        max_class_share: The largest share, in (0, 1].
    """

    def __init__(self, size: tuple[int, int], max_class_share: float) -> None:
        super().__init__()
        self.size = size
        self.max_class_share = max_class_share

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """The crop: top, left, height, width."""
        (mask,) = (item for item in flat_inputs if isinstance(item, tv_tensors.Mask))
        rows, cols = (min(side, crop) for side, crop in zip(mask.shape, self.size, strict=True))
        for _ in range(TRIES):
            top, left = (
                int(torch.randint(side - crop + 1, ()))
                for side, crop in zip(mask.shape, (rows, cols), strict=True)
            )
            part = mask[top : top + rows, left : left + cols]
            pixels = torch.bincount(part.flatten(), minlength=IGNORE + 1)[:IGNORE]
            if 0 < pixels.max() <= self.max_class_share * pixels.sum():
                break
        return {"top": top, "left": left, "height": rows, "width": cols}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """The same part of picture and mask."""
        return F.crop(inpt, **params)


class FillUp(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """To the size of a crop, to the right and below: the picture with 0, the mask with what does not count.

    Args:
        size: (rows, cols).
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Nothing changes where there is enough."""
        missing = [side - has for side, has in zip(self.size, inpt.shape[-2:], strict=True)]
        fill = IGNORE if isinstance(inpt, tv_tensors.Mask) else 0
        return F.pad(inpt, [0, 0, missing[1], missing[0]], fill=fill) if any(missing) else inpt


class TrainingTransform:
    """Random size, crop, flip and colours, then normalisation.

    All draws come from torch's generator on the CPU; a `SegmentationTrainingSet` seeds it for each image.

    Args:
        crop_size: (rows, cols) of what comes out.
        scale: Range of the size before the crop, as factors on the scene's own.
        max_class_share: See `RandomCrop`.
        hflip: Probability of a horizontal flip.
        photometric: Whether to change brightness by up to 32/255, contrast and saturation by factors from .5
            to 1.5, and hue by up to 18 degrees, in torchvision's forms, each with probability .5.
        mean: Of each channel in 0..1.
        std: Of each channel in 0..1.

    Source:
        The ranges are those of the released training of the paper's segmenters; the brightness is a factor
        here and a sum there.

    Example:
        >>> transform = TrainingTransform((32, 48), mean=(0.5,) * 3, std=(0.25,) * 3)
        >>> scene, mask = transform(Image.new("RGB", (40, 60)), torch.zeros(60, 40, dtype=torch.uint8))
        >>> scene.shape, mask.shape, mask.dtype
        (torch.Size([3, 32, 48]), torch.Size([32, 48]), torch.int64)
    """

    def __init__(
        self,
        crop_size: tuple[int, int],
        *,
        mean: Sequence[float],
        std: Sequence[float],
        scale: tuple[float, float] = (0.5, 2.0),
        max_class_share: float = 0.75,
        hflip: float = 0.5,
        photometric: bool = True,
    ) -> None:
        colours: list[dict[str, Any]] = [
            {"brightness": 32 / 255},
            {"contrast": 0.5},
            {"saturation": 0.5},
            {"hue": 18 / 360},
        ]
        self._transform = v2.Compose(
            [
                RandomScale(scale),
                RandomCrop(crop_size, max_class_share),
                v2.RandomHorizontalFlip(hflip),
                *(v2.RandomApply([v2.ColorJitter(**one)]) for one in colours if photometric),
                v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
                v2.Normalize(mean, std),
                FillUp(crop_size),
            ]
        )

    def __call__(self, image: Image.Image, mask: Mask | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The picture (3, rows, cols), float32, and the class of every pixel (rows, cols), int64.

        Args:
            image: In RGB, of any size.
            mask: Classes (H, W), uint8, 255 where none counts.
        """
        scene, classes = self._transform(F.to_image(image), tv_tensors.Mask(torch.as_tensor(mask)))
        return scene.as_subclass(torch.Tensor), classes.as_subclass(torch.Tensor).long()
