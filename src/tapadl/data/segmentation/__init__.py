"""Data sets for semantic segmentation: images, and for each a file with the class of every pixel."""

from tapadl.data.segmentation.files import SegmentationFiles
from tapadl.data.segmentation.labels import CITYSCAPES, LabelScheme
from tapadl.data.segmentation.opening import DATASETS, open_segmentation
from tapadl.data.segmentation.training_set import SegmentationTrainingSet

__all__ = [
    "CITYSCAPES",
    "DATASETS",
    "LabelScheme",
    "SegmentationFiles",
    "SegmentationTrainingSet",
    "open_segmentation",
]
