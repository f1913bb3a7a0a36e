"""All corrupted files of one image: read once, corrupted in every way, written."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from tapadl.corruptions import SEVERITIES, constants_for, corrupt
from tapadl.corruptions.checks import check_seed
from tapadl.data.atomic import write_atomically
from tapadl.data.image_file import read_image
from tapadl.evaluation.preprocessing import Preprocessing

Format = Literal["png", "jpeg85"]

FORMATS: tuple[Format, ...] = ("png", "jpeg85")
# Before the crop the shorter side is 256 for a crop of 224.
CROP_PCT = 224 / 256
_JPEG_SUFFIXES = (".jpg", ".jpeg")


@dataclass(frozen=True)
class CopySettings:
    """What a corrupted copy of a data set holds.

    Args:
        corruptions: Names in `CORRUPTIONS`.
        severities: Out of 1 to 5.
        size: Side of the square cut from the middle, after the shorter side was resized to 8/7 of it; None to
            leave the images as large as they are.
        format: "png", exact, or "jpeg85", JPEG at quality 85, as ImageNet-C is published.
        seed: 0 to 2**64 - 1.
        gray: Turn the images gray first and write one channel.
        constants_size: Side length whose constants apply; the shorter side of each image by default.

    Raises:
        ValueError: If a value is none of these.
    """

    corruptions: tuple[str, ...]
    severities: tuple[int, ...] = SEVERITIES
    size: int | None = 224
    format: Format = "png"
    seed: int = 0
    gray: bool = False
    constants_size: int | None = None

    def __post_init__(self) -> None:
        if not self.corruptions or not self.severities:
            raise ValueError("expected at least one corruption and one severity, got none")
        for names in (self.corruptions, self.severities):
            if len(set(names)) < len(names):
                raise ValueError(f"expected each once, got {', '.join(map(str, names))}")
        sides = [side for side in (self.size, self.constants_size) if side is not None]
        for corruption, severity in self.cells:
            for side in sides or [224]:
                constants_for(corruption, severity, side)
        check_seed(self.seed)
        if self.format not in FORMATS:
            raise ValueError(f"expected a format out of {', '.join(FORMATS)}, got {self.format!r}")

    @property
    def cells(self) -> tuple[tuple[str, int], ...]:
        """Every corruption at every severity."""
        return tuple(
            (corruption, severity) for corruption in self.corruptions for severity in self.severities
        )

    @cached_property
    def _preprocessing(self) -> Preprocessing:
        channels = 1 if self.gray else 3
        side = self.size or 1
        return Preprocessing(
            (side, side), (0.0,) * channels, (1.0,) * channels, CROP_PCT, interpolation="bilinear"
        )

    def prepare(self, image: Image.Image) -> torch.Tensor:
        """The image as it is corrupted, (C, H, W) uint8."""
        if self.size is not None:
            return self._preprocessing.prepare(image)
        pixels = np.array(image.convert("L") if self.gray else image).reshape(image.height, image.width, -1)
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def encode(self, pixels: torch.Tensor) -> bytes:
        """The file of one corrupted image, (C, H, W) uint8."""
        array = pixels.permute(1, 2, 0).numpy()
        image = Image.fromarray(array[..., 0] if self.gray else array)
        buffer = BytesIO()
        if self.format == "png":
            # Level 1 is as exact as the others, a sixth larger on smooth images and three times as fast.
            image.save(buffer, "PNG", compress_level=1)
        else:
            image.save(buffer, "JPEG", quality=85, optimize=True)
        return buffer.getvalue()

    def name(self, path: str) -> str:
        """What the corrupted files of the image at `path` are called, in the folder of a cell."""
        stem, dot, suffix = path.rpartition(".")
        if self.format == "jpeg85":
            return path if dot + suffix.lower() in _JPEG_SUFFIXES else f"{stem}.jpg"
        return f"{stem}.png"


@dataclass(frozen=True)
class Copied:
    """What came of one image.

    Args:
        path: Of the image, in its tree.
        files: SHA-256 of each file that was written, by its path in the copy.
        problem: Why there are none, in a sentence that names the image; None if there are.
    """

    path: str
    files: dict[str, str]
    problem: str | None = None


def copy_image(settings: CopySettings, source: Path, target: Path, path: str, index: int) -> Copied:
    """Write all corrupted files of one image, each at once or not at all.

    Args:
        settings: Which files.
        source: The folder of the images.
        target: The folder of the copy.
        path: Of the image in `source`.
        index: Its position among all images, from which its random numbers follow.

    Raises:
        OSError: If a file cannot be written.
    """
    try:
        pixels = settings.prepare(read_image(source / path))
    except (OSError, ValueError) as error:
        sentence = str(error) if str(source) in str(error) else f"{error} ({source / path})"
        return Copied(path, {}, sentence)
    images = pixels[None].float() / 255
    files = {}
    for corruption, severity in settings.cells:
        name = f"{corruption}/{severity}/{settings.name(path)}"
        file = target / name
        corrupted = corrupt(
            images,
            corruption,
            severity,
            seed=settings.seed,
            indices=torch.tensor([index]),
            image_size=settings.constants_size,
        )
        content = settings.encode((corrupted[0] * 255).round_().to(torch.uint8))
        write_atomically(file, content)
        files[name] = hashlib.sha256(content).hexdigest()
    return Copied(path, files)


def check_names(settings: CopySettings, paths: tuple[str, ...]) -> None:
    """Every image gets files of its own.

    Raises:
        ValueError: If two images differ in the ending of their names alone.
    """
    seen: dict[str, str] = {}
    for path in paths:
        other = seen.setdefault(settings.name(path), path)
        if other != path:
            raise ValueError(
                f"expected images whose names differ in more than their ending, got {other} and {path}; "
                "rename one"
            )
