"""The scenes of a training run: found, and held against one another."""

from dataclasses import dataclass
from pathlib import Path

from tapadl.data.segmentation import SegmentationFiles, SegmentationTrainingSet, open_segmentation
from tapadl.data.segmentation.labels import IGNORE
from tapadl.tasks.segmentation.model import SegmenterDescription
from tapadl.tasks.segmentation.transforms import TrainingTransform
from tapadl.training.settings import Dataset, Settings

# The side whose constants the published Cityscapes-C applied to images of 1024 x 2048.
PUBLISHED_SIZE = 224


@dataclass(frozen=True)
class SegmentationData:
    """Where the scenes are.

    Args:
        train: To train on.
        val: To evaluate on, of the same classes; None without.
    """

    train: SegmentationFiles
    val: SegmentationFiles | None


def open_data(settings: Settings) -> SegmentationData:
    """The scenes that the settings name.

    Raises:
        OSError: If a folder or file is missing or may not be read.
        ValueError: If the layout is another, there are no masks, or the two have other classes.
    """
    dataset, data = settings.segmentation.dataset, settings.data
    train = open_segmentation(dataset, Path(data.train), "train")
    val = None if data.val is None else open_segmentation(dataset, Path(data.val), "val")
    if val is not None and val.scheme != train.scheme:
        raise ValueError(
            f"expected the same classes in {data.train} and {data.val}, "
            f"got {', '.join(train.class_names)} and {', '.join(val.class_names)}, or other numbers for them"
        )
    for files in (train, val):
        if files is not None and not files.labelled:
            raise ValueError(f"expected masks in {files.root}, got images alone")
        if files is not None and not _has_pixels_that_count(files):
            raise ValueError(
                f"expected pixels that count in the masks of {files.root}, got none in any of "
                f"{len(files)}; look at what the numbers in them mean"
            )
    return SegmentationData(train, val)


def make_training_set(
    files: SegmentationFiles, settings: Settings, description: SegmenterDescription
) -> SegmentationTrainingSet:
    """Scenes behind the random transform that the settings describe."""
    segmentation = settings.segmentation
    transform = TrainingTransform(
        segmentation.crop_size,
        mean=description.mean,
        std=description.std,
        scale=segmentation.scale,
        max_class_share=segmentation.max_class_share,
        hflip=settings.augmentation.hflip,
        photometric=segmentation.photometric,
    )
    return SegmentationTrainingSet(
        files, transform, seed=settings.training.seed, on_error=settings.data.on_error
    )


def corruption_size(dataset: Dataset) -> int | None:
    """The side whose constants corruptions take; None for the shorter side of each scene.

    The published Cityscapes-C kept the constants of 224 pixels for scenes of 1024 x 2048.

    Example:
        >>> corruption_size("cityscapes"), corruption_size("folder")
        (224, None)
    """
    return PUBLISHED_SIZE if dataset in ("cityscapes", "acdc") else None


def _has_pixels_that_count(files: SegmentationFiles) -> bool:
    """Whether there is one in any mask; a mask that cannot be read is told of where it is needed."""
    for index in range(len(files)):
        try:
            if (files.mask(index) != IGNORE).any():
                return True
        except (OSError, ValueError):
            return True
    return False
