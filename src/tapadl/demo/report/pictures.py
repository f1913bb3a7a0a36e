"""Tensors as pictures inside a page: PNG in data URIs."""

import base64
import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

# Ordered in lightness, so that it reads without colour vision.
COLOUR_MAP = "inferno"
# The ends of the map are left out: black and white would be taken for the image below.
_LOWEST, _HIGHEST = 0.12, 0.93
# One opacity for all values, so that a colour means the same everywhere.
_OPACITY = 0.72


def image_uri(image: torch.Tensor) -> str:
    """An image (C, H, W) in 0..1, C 1 or 3, as a PNG data URI of the same size.

    Example:
        >>> image_uri(torch.zeros(1, 2, 2))[:22]
        'data:image/png;base64,'
    """
    return _png_uri(_to_uint8(image))


def sheet_uri(rows: torch.Tensor, *, gap: int = 1) -> str:
    """Images (R, S, C, H, W) in 0..1 as one PNG, R rows of S, a transparent edge of `gap` around each."""
    num_rows, num_cols, _, height, width = rows.shape
    sheet = np.zeros((num_rows * (height + 2 * gap), num_cols * (width + 2 * gap), 4), dtype=np.uint8)
    for row in range(num_rows):
        for col in range(num_cols):
            top, left = row * (height + 2 * gap) + gap, col * (width + 2 * gap) + gap
            cell = sheet[top : top + height, left : left + width]
            cell[..., :3] = _to_uint8(rows[row, col])
            cell[..., 3] = 255
    return _png_uri(sheet)


def heat_uri(values: torch.Tensor) -> str:
    """A map (rows, cols) in 0..1 as a PNG of that size to lay over an image: higher is brighter."""
    coloured = _colours(values.clamp(0, 1))
    opacity = np.full((*coloured.shape[:2], 1), round(255 * _OPACITY), dtype=np.uint8)
    return _png_uri(np.concatenate((coloured, opacity), axis=2))


def colour_stops(count: int = 6) -> Sequence[str]:
    """Colours of `heat_uri` from lowest to highest, as CSS colours."""
    coloured = _colours(torch.linspace(0, 1, count)[None])[0]
    return [f"rgb({red} {green} {blue})" for red, green, blue in coloured.tolist()]


def _colours(values: torch.Tensor) -> np.ndarray:
    # Only a page needs matplotlib: importing the demo does not.
    from matplotlib import colormaps

    coloured: np.ndarray = colormaps[COLOUR_MAP](
        _LOWEST + (_HIGHEST - _LOWEST) * values.cpu().numpy(), bytes=True
    )
    return coloured[..., :3]


def _to_uint8(image: torch.Tensor) -> np.ndarray:
    channels_last = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    pixels: np.ndarray = channels_last.expand(-1, -1, 3).cpu().numpy()
    return pixels


def _png_uri(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
