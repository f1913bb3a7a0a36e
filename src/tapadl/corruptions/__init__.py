"""Common corruptions of images: seeded, for any image size, on any device."""

from tapadl.corruptions.api import corrupt
from tapadl.corruptions.ice import frost_source
from tapadl.corruptions.severity import CORRUPTIONS, SEVERITIES, Constants, Corruption, constants_for
from tapadl.corruptions.transform import CorruptionTransform, corrupt_image

__all__ = [
    "CORRUPTIONS",
    "SEVERITIES",
    "Constants",
    "Corruption",
    "CorruptionTransform",
    "constants_for",
    "corrupt",
    "corrupt_image",
    "frost_source",
]
