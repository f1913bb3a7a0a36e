"""Common corruptions of images: seeded, for any image size, on any device."""

from tapadl.corruptions.api import corrupt
from tapadl.corruptions.severity import CORRUPTIONS, SEVERITIES, Constants, Corruption, constants_for

__all__ = ["CORRUPTIONS", "SEVERITIES", "Constants", "Corruption", "constants_for", "corrupt"]
