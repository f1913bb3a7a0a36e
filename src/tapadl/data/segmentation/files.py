"""Images with the class of every pixel, in files: one pair at a time."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from tapadl.data.image_file import FORMATS, read_image
from tapadl.data.labelled_files import sampled_sizes
from tapadl.data.segmentation.labels import LabelScheme, Mask
from tapadl.data.subset import draw_order


@dataclass(frozen=True)
class SegmentationFiles:
    """Images and the label file of each.

    Args:
        root: The folder that all paths are relative to.
        images: Paths with forward slashes.
        masks: The label file of each image; empty where the data set keeps them to itself.
        scheme: What the numbers in the label files mean.
        subset_of: Of a subset, the position of each image in the whole set; None for the whole.
    """

    root: Path
    images: tuple[str, ...] = field(repr=False)
    masks: tuple[str, ...] = field(repr=False)
    scheme: LabelScheme
    subset_of: tuple[int, ...] | None = field(default=None, repr=False, compare=False)

    @property
    def labelled(self) -> bool:
        """Whether there are label files."""
        return bool(self.masks)

    @property
    def positions(self) -> Sequence[int]:
        """The position of each image in the whole set: what its random draws depend on."""
        return range(len(self)) if self.subset_of is None else self.subset_of

    @property
    def class_names(self) -> tuple[str, ...]:
        """One for each class."""
        return self.scheme.class_names

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> Image.Image:
        """One image in RGB.

        Raises:
            OSError: If the file is missing, cut short or no image.
        """
        return read_image(self.root / self.images[index])

    def mask(self, index: int) -> Mask:
        """The class of every pixel of an image, (H, W), 255 where none counts.

        Raises:
            OSError: If the file is missing, cut short or no image.
            ValueError: If it holds colours or numbers that the scheme does not know; it names the file.
        """
        path = self.root / self.masks[index]
        values = read_values(path)
        try:
            return self.scheme.to_classes(values)
        except ValueError as error:
            raise ValueError(f"{error} in {path}; is it a file of labels, and of this data set?") from None

    def pair(self, index: int) -> tuple[Image.Image, Mask]:
        """An image and the class of every pixel.

        Raises:
            OSError: As `image` and `mask`.
            ValueError: As `mask`; or if their sizes differ, naming both files.
        """
        image, mask = self.image(index), self.mask(index)
        if mask.shape != (image.height, image.width):
            raise ValueError(
                f"expected a label for every pixel of {self.location(index)}, {image.height} x {image.width} "
                f"(height x width), got {mask.shape[0]} x {mask.shape[1]} in {self.masks[index]}"
            )
        return image, mask

    def location(self, index: int) -> str:
        """The path of one image."""
        return str(self.root / self.images[index])

    def subset(self, count: int) -> "SegmentationFiles":
        """`count` of the images, the same ones everywhere; a smaller subset lies inside a larger one.

        Raises:
            ValueError: If there are not so many.
        """
        if not 1 <= count <= len(self):
            raise ValueError(f"expected a subset of 1 to {len(self)} images, got {count}")
        chosen = sorted(draw_order(0, len(self))[:count].tolist())
        return replace(
            self,
            images=tuple(self.images[index] for index in chosen),
            masks=tuple(self.masks[index] for index in chosen) if self.labelled else (),
            subset_of=tuple(self.positions[index] for index in chosen),
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of paths, positions, the meaning of the labels, and the sizes of up to 1,000 files."""
        digest = hashlib.sha256(f"{len(self)}\0{self.scheme.values}\0".encode())
        for paths in (self.images, self.masks):
            digest.update(os.fsencode("\0".join(paths)))
            digest.update(sampled_sizes(self.root, paths))
        if self.subset_of not in (None, tuple(range(len(self)))):
            digest.update(np.array(self.positions, dtype="<i8").tobytes())
        return digest.hexdigest()


def read_values(path: Path) -> Mask:
    """The numbers in a label file, (H, W).

    Raises:
        OSError: If the file is missing, cut short or no image.
        ValueError: If it is a picture in colours, or has more than 8 bits.
    """
    try:
        with Image.open(path, formats=FORMATS) as file:
            if file.mode not in ("L", "P"):
                raise ValueError(
                    f"expected one number of 8 bits a pixel in {path}, got a picture of mode {file.mode}; "
                    f"give the file with the numbers of classes"
                )
            # Pillow spreads gray of 2 and 4 bits over 0 to 255
            factor = {"L;2": 85, "L;4": 17}.get(str(file.tile[0].args), 1) if file.tile else 1
            return np.array(file) // np.uint8(factor)
    except (FileNotFoundError, IsADirectoryError, PermissionError, ValueError):
        raise
    except Exception as error:  # decoders raise anything
        raise OSError(f"expected a whole image at {path}, but it does not decode ({error})") from None
