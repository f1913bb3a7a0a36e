"""From a picture to the input of a model, at random for training and fixed for evaluation."""

from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image
from timm.data import auto_augment as timm_auto_augment
from timm.data.random_erasing import RandomErasing
from timm.data.transforms_factory import create_transform
from torchvision.transforms import Compose

# timm's settings; its names of the operations and their strengths
AUGMIX = "augmix-m3-w3"
ERASING_MODES = ("const", "rand", "pixel")
MODES = {1: "L", 3: "RGB"}


class ToMode:
    """A picture in the colours that a model takes.

    Args:
        mode: "RGB" or "L".
    """

    def __init__(self, mode: str) -> None:
        self.mode = mode

    def __call__(self, image: Image.Image) -> Image.Image:
        """The picture, converted if need be."""
        return image if image.mode == self.mode else image.convert(self.mode)


class Normalise:
    """From bytes to what a model sees: (pixel - 255 mean) / (255 std), as timm's loader computes it.

    Args:
        mean: One number a channel, of values in 0..1.
        std: As `mean`.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.mean = torch.tensor([255 * value for value in mean])[:, None, None]
        self.std = torch.tensor([255 * value for value in std])[:, None, None]

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """The image (C, H, W), float32, of its pixels (C, H, W), uint8."""
        return pixels.contiguous().float().sub_(self.mean).div_(self.std)


def training_transform(
    *,
    image_size: tuple[int, int],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    hflip: float = 0.5,
    color_jitter: float | None = None,
    auto_augment: str | None = None,
    augmix: bool = False,
    reprob: float = 0.0,
    remode: str = "pixel",
    interpolation: str = "bicubic",
) -> Compose:
    """Random resized crop, flip, colours, AutoAugment or RandAugment or AugMix, normalisation, erasing.

    timm's transform of single images. It draws from `random`, numpy and torch; a `TrainingSet` seeds them
    for each image, erasing included.

    Args:
        image_size: (height, width) that the model takes.
        mean: One number a channel, of values in 0..1; 3 channels are RGB, 1 is gray.
        std: As `mean`.
        scale: Range of the part of the area that a crop takes.
        ratio: Range of width / height of a crop.
        hflip: Probability of a horizontal flip.
        color_jitter: Strength of changes of brightness, contrast and saturation, None for none; not used
            where `auto_augment` or `augmix` is, which have such changes of their own.
        auto_augment: timm's word, such as "rand-m9-mstd0.5-inc1".
        augmix: Mix three chains of operations of strength 3 into the image, in place of `auto_augment`.
        reprob: Probability of erasing a rectangle of the normalised image.
        remode: What stands there then: "const" 0, "rand" one normal number a channel, "pixel" one a value.
        interpolation: Of the resize; "random" draws bilinear or bicubic.

    Returns:
        From a picture of any size and mode to a tensor (channels, height, width), float32.

    Raises:
        ValueError: If a value is out of its range, or timm does not know a word.

    Source:
        AugMix: Hendrycks et al., arXiv:1912.02781. RandAugment: Cubuk et al., arXiv:1909.13719.
        Random erasing: Zhong et al., arXiv:1708.04896.

    Example:
        >>> transform = training_transform(image_size=(32, 48), mean=(0.5,) * 3, std=(0.5,) * 3)
        >>> transform(Image.new("L", (80, 60))).shape
        torch.Size([3, 32, 48])
    """
    for name, (low, high) in (("scale", scale), ("ratio", ratio)):
        if not 0 < low <= high:
            raise ValueError(f"expected {name} (from, to) above 0, from not above to, got {(low, high)}")
    for name, probability in (("hflip", hflip), ("reprob", reprob)):
        if not 0 <= probability <= 1:
            raise ValueError(f"expected {name} from 0 to 1, got {probability}")
    if remode not in ERASING_MODES:
        raise ValueError(f"expected remode out of {', '.join(ERASING_MODES)}, got {remode!r}")
    if augmix and auto_augment:
        raise ValueError(f"expected augmix or auto_augment, got both (auto_augment {auto_augment!r})")
    words = {"auto_augment": AUGMIX if augmix else auto_augment, "interpolation": interpolation}
    transform = _compose(
        words,
        is_training=True,
        image_size=image_size,
        mean=mean,
        std=std,
        scale=scale,
        ratio=ratio,
        hflip=hflip,
        color_jitter=color_jitter or None,
    )
    erasing = RandomErasing(reprob, mode=remode, device="cpu")  # type: ignore[no-untyped-call]
    return Compose([*transform.transforms, erasing]) if reprob else transform


def evaluation_transform(
    *,
    image_size: tuple[int, int],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    crop_pct: float = 1.0,
    crop_mode: str = "center",
    interpolation: str = "bicubic",
) -> Compose:
    """Resize, crop in the middle, normalisation: timm's transform, without draws.

    Args:
        image_size: (height, width) that the model takes.
        mean: One number a channel, of values in 0..1; 3 channels are RGB, 1 is gray.
        std: As `mean`.
        crop_pct: Part of a side that the crop keeps.
        crop_mode: "center", "squash" or "border", as in timm.
        interpolation: Of the resize.

    Returns:
        From a picture of any size and mode to a tensor (channels, height, width), float32.

    Raises:
        ValueError: If a value is out of its range, or timm does not know a word.
    """
    if not 0 < crop_pct <= 1:
        raise ValueError(f"expected a crop_pct above 0 to 1, got {crop_pct}")
    words = {"interpolation": interpolation}
    return _compose(words, image_size=image_size, mean=mean, std=std, crop_pct=crop_pct, crop_mode=crop_mode)


def _compose(
    words: Mapping[str, str | None],
    *,
    image_size: tuple[int, int],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    **options: Any,
) -> Compose:
    if len(mean) not in MODES or len(std) != len(mean):
        raise ValueError(f"expected a mean and a std for 3 channels or for 1, got {len(mean)} and {len(std)}")
    try:
        options.update(words, mean=mean, std=std, use_prefetcher=True)  # which ends with bytes
        transform: Any = create_transform((len(mean), *image_size), **options)
    except (AssertionError, KeyError, ValueError) as error:
        given = ", ".join(f"{name} {word!r}" for name, word in words.items() if word)
        raise ValueError(
            f"expected words that timm's create_transform knows, got {given} ({error})"
        ) from None
    for step in transform.transforms:
        _keep_posterize_to_no_bits(step)
    return Compose([ToMode(MODES[len(mean)]), *transform.transforms, Normalise(mean, std)])


def _keep_posterize_to_no_bits(step: Any) -> None:
    """Let timm's posterize take 0 bits: Pillow 13 refuses what earlier ones answered with a black image.

    Magnitude 10 asks for it, and "rand-m9-mstd0.5-inc1" reaches that with one image in some hundreds.
    """
    policies = getattr(step, "policy", None) or [getattr(step, "ops", [])]
    for operation in (operation for policy in policies for operation in policy):
        if operation.aug_fn is timm_auto_augment.posterize:
            operation.aug_fn = posterize


def posterize(image: Image.Image, bits: int, **options: Any) -> Image.Image:
    """The operation of timm, defined for 0 bits too: a black image.

    Example:
        >>> posterize(Image.new("L", (1, 1), 255), 0).getpixel((0, 0))
        0
    """
    if bits == 0:
        return Image.new(image.mode, image.size)
    posterized: Image.Image = timm_auto_augment.posterize(image, bits, **options)  # type: ignore[no-untyped-call]
    return posterized
