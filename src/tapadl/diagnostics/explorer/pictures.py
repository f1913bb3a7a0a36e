"""Pictures as a page holds them: every model's own crop, clean and corrupted, each once."""

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from tapadl.corruptions import corrupt
from tapadl.diagnostics.explorer.subject import Condition

# Up to this side every pixel counts: no loss.
_EXACT_SIDE = 64
_LARGEST_SIDE = 256
_QUALITY = 70


def under_conditions(
    image: torch.Tensor, conditions: Sequence[Condition], index: int, seed: int
) -> torch.Tensor:
    """A prepared picture (C, H, W), uint8, under every condition: (conditions, C, H, W), uint8."""
    batch, position = image[None] / 255, torch.tensor([index])
    shown = [
        corrupt(batch, condition.corruption, condition.severity, seed=seed, indices=position)
        if condition.severity
        else batch
        for condition in conditions
    ]
    return (torch.cat(shown) * 255).round().byte()


class PictureBook:
    """Encoded pictures one behind the other; equal ones once."""

    def __init__(self) -> None:
        self.content = bytearray()
        self._known: dict[bytes, tuple[int, int]] = {}

    def add(self, image: torch.Tensor) -> tuple[int, int]:
        """Start and length of a picture (C, H, W), uint8."""
        encoded = _encode(image)
        if encoded not in self._known:
            self._known[encoded] = (len(self.content), len(encoded))
            self.content += encoded
        return self._known[encoded]


def _encode(image: torch.Tensor) -> bytes:
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).expand(-1, -1, 3).cpu().numpy())
    picture = Image.fromarray(pixels)
    exact = max(picture.size) <= _EXACT_SIDE
    picture.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", lossless=exact, quality=_QUALITY)
    return buffer.getvalue()
