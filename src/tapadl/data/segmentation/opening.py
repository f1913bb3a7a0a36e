"""Segmentation data sets by name."""

from collections.abc import Callable
from pathlib import Path

from tapadl.data.segmentation.acdc import acdc
from tapadl.data.segmentation.ade20k import ade20k
from tapadl.data.segmentation.cityscapes import cityscapes
from tapadl.data.segmentation.files import SegmentationFiles
from tapadl.data.segmentation.folder import folder

DATASETS: dict[str, Callable[[Path, str], SegmentationFiles]] = {
    "cityscapes": cityscapes,
    "acdc": acdc,
    "ade20k": ade20k,
    "folder": folder,
}
"""What reads each, from its folder and the name of a split."""


def open_segmentation(dataset: str, root: str | Path, split: str) -> SegmentationFiles:
    """The images and label files of a split.

    Args:
        dataset: A key of `DATASETS`.
        root: Its folder; the function of the data set says what lies in it.
        split: "train", "val" or "test".

    Raises:
        ValueError: If there is no such data set or split, or the folder holds something else.
        OSError: If a folder or file is missing.
    """
    if dataset not in DATASETS:
        raise ValueError(f"expected a data set out of {', '.join(DATASETS)}, got {dataset!r}")
    return DATASETS[dataset](Path(root), split)
