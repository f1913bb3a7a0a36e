"""Labelled images whose encoded bytes come from anywhere: a tar file, a table."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import numpy as np
from PIL import Image

from tapadl.data.image_file import decode_image
from tapadl.data.subset import balanced_subset


class Source(Protocol):
    """Where encoded images lie; safe to use in processes that were forked or spawned."""

    @property
    def fingerprint(self) -> str:
        """Tells it from others."""

    def read(self, position: int) -> bytes:
        """The encoded bytes of one image."""

    def location(self, position: int) -> str:
        """What to call it."""


@dataclass(frozen=True)
class EncodedImages:
    """Images of a source, one class each, with the interface of `LabelledFiles`.

    Args:
        source: Where their bytes are.
        labels: The class of each image, an index into `class_names`.
        class_names: One for each class.
        subset_of: Of a subset, the position of each image in the source; None for the whole.
    """

    source: Source
    labels: tuple[int, ...] = field(repr=False)
    class_names: tuple[str, ...] = field(repr=False)
    subset_of: tuple[int, ...] | None = field(default=None, repr=False)
    outputs: None = field(default=None, init=False, repr=False)

    @property
    def positions(self) -> Sequence[int]:
        """The position of each image in the whole set: what its random draws depend on."""
        return range(len(self)) if self.subset_of is None else self.subset_of

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        """One image in RGB; `read_image` says how it is read.

        Raises:
            OSError: If its bytes are missing, cut short or no image.
        """
        location = self.location(index)
        try:
            content = self.source.read(self.positions[index])
        except Exception as error:  # what libraries of tables raise is not documented
            raise OSError(f"expected the bytes of an image at {location}, got an error: {error}") from error
        return decode_image(io.BytesIO(content), location)

    def location(self, index: int) -> str:
        """What to call one image."""
        return self.source.location(self.positions[index])

    def subset(self, count: int) -> "EncodedImages":
        """`count` of the images, as many of each class; the same ones everywhere (`balanced_subset`).

        Raises:
            ValueError: If `count` is no multiple of the number of classes or a class has too few images.
        """
        chosen = balanced_subset(self.labels, self.class_names, count)
        return replace(
            self,
            labels=tuple(self.labels[index] for index in chosen),
            subset_of=tuple(self.positions[index] for index in chosen),
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what the source says of itself, and of positions and labels."""
        digest = hashlib.sha256(f"{self.source.fingerprint}\0".encode())
        digest.update(np.array([self.positions, self.labels], dtype="<i8").tobytes())
        return digest.hexdigest()
