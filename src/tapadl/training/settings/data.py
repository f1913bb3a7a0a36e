"""What the model sees: the images, and what is done to them."""

from dataclasses import dataclass
from typing import Literal

from tapadl.training.settings.checks import (
    AT_LEAST_0,
    AT_LEAST_1,
    FRACTION,
    POSITIVE,
    Interval,
    check_ascending,
    check_choices,
    check_distinct,
    check_named,
    check_numbers,
    refuse,
)


@dataclass(frozen=True)
class DataSettings:
    """Where the images are.

    Args:
        train: Folder, wds/..., hfds/... or embedded; a folder has a folder of images for each class, the
            next two are names of timm's readers, and embedded is the part of Fashion-MNIST in this package.
            Of segmentation the root of the data set.
        val: The same to evaluate on, null: do not.
        num_classes: Width of the logits, null: as in the data.
        workers: Processes that read, null: the spare cores; for each process that trains. The result does
            not depend on it.
        on_error: stop at a damaged image, or skip it; skipped ones are counted and reported.
        extra_train: Folders of transformed copies; of the training images, as DeepAugment makes them.

    Raises:
        ValueError: If a value is out of range.
    """

    train: str
    val: str | None = None
    num_classes: int | None = None
    workers: int | None = None
    on_error: Literal["stop", "skip"] = "stop"
    extra_train: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_choices(self)
        check_named(self, "train", "val")
        check_numbers(self, AT_LEAST_1, "num_classes")
        check_numbers(self, AT_LEAST_0, "workers")
        check_distinct(self, "extra_train")


@dataclass(frozen=True)
class AugmentationSettings:
    """How training images are changed, and how all are prepared.

    The names are timm's. Mixup, cutmix and patch augmentation follow from (seed, step, process), all others
    from (seed, epoch, image).

    Args:
        scale: Area of the random crop, from and to; over that of the image.
        ratio: Width over height of the crop, from and to.
        hflip: Probability of a left-right flip.
        color_jitter: Brightness, contrast, saturation, null: off; timm leaves it out under auto_augment,
            unless that is 3a.
        auto_augment: rand-m9-mstd0.5-inc1, ..., null: none; in timm's words.
        augmix: AugMix instead of auto_augment; three chains of strength 3, in timm's form.
        reprob: Probability of random erasing.
        remode: Erase with const, rand or pixel; black, one colour, or noise in every pixel.
        mixup: Alpha of mixup, 0: off.
        cutmix: Alpha of cutmix, 0: off.
        mixup_switch_prob: Probability of cutmix where both are on.
        label_smoothing: Part of a target spread over all classes; in [0, 1).
        patch_augmentation: RVT's, twice the work a step; the batch is seen again with its patches changed.
        crop_pct: Kept in evaluation, null: the model's; part of each side of the resized image.
        interpolation: bicubic, bilinear, ..., null: the model's; random is for training, and evaluation then
            takes the model's.
        mean: Of each channel in 0..1, null: the model's.
        std: Of each channel in 0..1, null: the model's.

    Raises:
        ValueError: If a value is out of range, or two exclude one another.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip: float = 0.5
    color_jitter: float | None = 0.4
    auto_augment: str | None = None
    augmix: bool = False
    reprob: float = 0.0
    remode: Literal["const", "rand", "pixel"] = "pixel"
    mixup: float = 0.0
    cutmix: float = 0.0
    mixup_switch_prob: float = 0.5
    label_smoothing: float = 0.0
    patch_augmentation: bool = False
    crop_pct: float | None = None
    interpolation: Literal["bicubic", "bilinear", "nearest", "lanczos", "random"] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        check_choices(self)
        check_named(self, "auto_augment")
        check_numbers(self, Interval(0, 1, without_low=True), "scale", "crop_pct")
        check_numbers(self, POSITIVE, "ratio", "std")
        check_ascending(self, "scale", "ratio")
        check_numbers(self, FRACTION, "hflip", "reprob", "mixup_switch_prob", "mean")
        check_numbers(self, Interval(0, 1, without_high=True), "label_smoothing")
        check_numbers(self, AT_LEAST_0, "color_jitter", "mixup", "cutmix")
        if self.augmix and self.auto_augment is not None:
            raise refuse(self, "auto_augment", "to be null where augmentation.augmix is true")
        if (self.mean is None) != (self.std is None) or (
            self.mean is not None and self.std is not None and len(self.mean) != len(self.std)
        ):
            raise refuse(self, "std", f"for the same channels as augmentation.mean, {self.mean}")
        for name in ("mean", "std"):
            if getattr(self, name) == ():
                raise refuse(self, name, "to have a number for each channel")

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are mixed with one another."""
        return self.mixup > 0 or self.cutmix > 0
