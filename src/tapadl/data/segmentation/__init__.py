"""Data sets for semantic segmentation: images, and for each a file with the class of every pixel."""

from tapadl.data.segmentation.files import SegmentationFiles
from tapadl.data.segmentation.labels import CITYSCAPES, LabelScheme

__all__ = ["CITYSCAPES", "LabelScheme", "SegmentationFiles"]
