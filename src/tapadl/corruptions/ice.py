"""Pictures of frost: the published photographs where they are installed, else a procedural texture."""

import importlib.util
from functools import cache, lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from tapadl.corruptions.filters import mix_rows, transpose
from tapadl.corruptions.frost_texture import frost_texture

Pixels = npt.NDArray[np.uint8]

# The package ships six; the published script never draws the last.
PHOTOGRAPHS = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")


def frost_source() -> Literal["photographs", "procedural"]:
    """Which pictures `frost` adds in this installation.

    Returns:
        "photographs": the five of the published script, from the optional package `imagecorruptions-imaug`.
        "procedural": a texture of ours; results are not comparable with published ones and should say so.

    Example:
        >>> frost_source() in ("photographs", "procedural")
        True
    """
    return "procedural" if _photograph_folder() is None else "photographs"


@cache
def _photograph_folder() -> Path | None:
    """Folder of the photographs. The package is looked up, never imported: that fails on some systems."""
    spec = importlib.util.find_spec("imagecorruptions")
    for location in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(location) / "frost"
        if all((folder / name).is_file() for name in PHOTOGRAPHS):
            return folder
    return None


@cache
def frost_picture(number: int) -> Pixels:
    """One of the five pictures, (H, W, 3)."""
    folder = _photograph_folder()
    if folder is None:
        return frost_texture(number)
    with Image.open(folder / PHOTOGRAPHS[number]) as photograph:
        return np.array(photograph.convert("RGB"))


def crop(picture: float, top: float, left: float, *, height: int, width: int, scale: float) -> Pixels:
    """A crop of a picture.

    Args:
        picture: 0..1, 1 excluded: which picture.
        top: 0..1, 1 excluded: how far down, of the possible crops.
        left: 0..1, 1 excluded: how far to the right.
        height: Of the crop.
        width: Of the crop.
        scale: The picture is scaled by it first, or by as much more as it takes to cover the crop.

    Returns:
        (height, width, 3).
    """
    number = int(picture * len(PHOTOGRAPHS))
    rows, columns = frost_picture(number).shape[:2]
    scale = max(scale, height / rows, width / columns)
    scaled = _scaled(number, max(height, round(rows * scale)), max(width, round(columns * scale)), scale)
    first_row = int(top * max(scaled.shape[0] - height, 1))
    first_column = int(left * max(scaled.shape[1] - width, 1))
    return scaled[first_row : first_row + height, first_column : first_column + width]


@lru_cache(maxsize=2 * len(PHOTOGRAPHS))
def _scaled(number: int, height: int, width: int, scale: float) -> Pixels:
    picture = frost_picture(number)
    if picture.shape[:2] == (height, width):
        return picture
    image = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
    image = mix_rows(image, *_bilinear_rows(picture.shape[0], height, scale))
    image = transpose(mix_rows(transpose(image), *_bilinear_rows(picture.shape[1], width, scale)))
    return image[0].permute(1, 2, 0).round().to(torch.uint8).contiguous().numpy()


def _bilinear_rows(
    size: int, new_size: int, scale: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The two source rows of each new row and their weights; as published, shrinking skips rows."""
    position = np.clip((np.arange(new_size) + 0.5) / scale - 0.5, 0, size - 1)
    lower = np.floor(position).astype(np.int64)
    share = position - lower
    return np.stack((lower, np.minimum(lower + 1, size - 1)), 1), np.stack((1 - share, share), 1)
