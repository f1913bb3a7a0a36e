"""What only the segmentation of scenes needs to know."""

from dataclasses import dataclass
from typing import Literal

from tapadl.training.settings.checks import (
    AT_LEAST_0,
    AT_LEAST_1,
    Interval,
    check_ascending,
    check_choices,
    check_distinct,
    check_numbers,
    refuse,
)

Dataset = Literal["cityscapes", "acdc", "ade20k", "folder"]


@dataclass(frozen=True)
class SegmentationSettings:
    """Scenes with a class for every pixel, where task is segmentation.

    data.train and data.val are each the root of such a data set: the one is trained on its train part, the
    other evaluated on its val part. Sizes are (rows, cols) in pixels.

    Args:
        dataset: cityscapes, acdc, ade20k or folder; folder has train/images, train/masks, val/images,
            val/masks and classes.json.
        head_dim: Width of the head.
        out_indices: Features that the head takes, null: chosen; as numbered in feature_info of the model.
        crop_size: Part of a scene that is trained on; smaller scenes are filled up.
        scale: Size of a scene before the crop, from, to; over its own.
        max_class_share: Most that a class may have of a crop; of its labelled pixels, else another is drawn,
            10 times at most.
        photometric: Change brightness, contrast and colours; each with probability .5.
        count_ignored: Average the loss over all pixels; false: over the labelled ones of a part of a batch.
        window: Evaluate by windows, null: whole images; logits are averaged where windows overlap.
        stride: From window to window, null: no overlap; at most the window.

    Raises:
        ValueError: If a value is out of range, or a stride has no window.

    Source:
        The released training of the paper's segmenters: crops of 1024, scale .5 to 2, a share of at most .75;
        it evaluates by windows of 1024, 768 from one to the next.
    """

    dataset: Dataset = "folder"
    head_dim: int = 768
    out_indices: tuple[int, ...] | None = None
    crop_size: tuple[int, int] = (1024, 1024)
    scale: tuple[float, float] = (0.5, 2.0)
    max_class_share: float = 0.75
    photometric: bool = True
    count_ignored: bool = True
    window: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        check_choices(self)
        check_numbers(self, AT_LEAST_1, "head_dim", "crop_size", "window", "stride")
        check_numbers(self, AT_LEAST_0, "out_indices")
        check_distinct(self, "out_indices")
        if self.out_indices == ():
            raise refuse(self, "out_indices", "to name a feature")
        check_numbers(self, Interval(0, 100, without_low=True), "scale")
        check_ascending(self, "scale")
        check_numbers(self, Interval(0, 1, without_low=True), "max_class_share")
        if self.stride is None:
            return
        if self.window is None:
            raise refuse(self, "stride", "to be null where segmentation.window is null")
        if not all(step <= side for step, side in zip(self.stride, self.window, strict=True)):
            raise refuse(self, "stride", f"to be at most segmentation.window, {list(self.window)}")
