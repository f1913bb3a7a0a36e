"""What an evaluation has to do: images, the conditions they are shown in, and how the work is cut."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, Self

import torch
from PIL import Image

from tapadl.corruptions.perturbations import FRAMES

CLEAN = "clean"
ATTACKS = ("fgsm", "pgd", "autoattack")

Form = Literal["stored", "in_memory", "in_memory_jpeg85"]


class Labelled(Protocol):
    """What has a class each: images, or sequences of frames."""

    @property
    def labels(self) -> Sequence[int]:
        """The class of each."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """One for each class."""

    @property
    def outputs(self) -> tuple[int, ...] | None:
        """The model's output for each class; None where class i is output i."""

    @property
    def fingerprint(self) -> str:
        """Tells these from others."""

    def __len__(self) -> int: ...

    def subset(self, count: int) -> Self:
        """So many of them, always the same."""


class Images(Labelled, Protocol):
    """Labelled images that are read one by one; `LabelledFiles` and `EmbeddedImages` are such."""

    @property
    def positions(self) -> Sequence[int]:
        """The position of each in the whole data set, of which these may be a subset."""

    def image(self, index: int) -> Image.Image:
        """One image, decoded."""


class Sequences(Labelled, Protocol):
    """Labelled films; `PerturbationSequences` is such."""

    def frames(self, index: int) -> torch.Tensor:
        """The frames of one, (T, C, H, W), uint8."""


@dataclass(frozen=True, order=True)
class Cell:
    """One condition in which images are shown.

    Args:
        condition: Name of a corruption, perturbation or attack, or "clean".
        severity: 1 to 5; 0 where there are no severities.
    """

    condition: str
    severity: int = 0

    @property
    def key(self) -> str:
        """As it is written in files."""
        return f"{self.condition}/{self.severity}" if self.severity else self.condition


@dataclass(frozen=True, eq=False)
class Part:
    """Images that are read once, and all the conditions they are shown in.

    Args:
        images: What is shown.
        cells: In the order of the results.
        form: Whether the images lie on disk as they are shown, or are corrupted when they are read.
        sequences: Each image is a sequence of frames, and the cells are perturbations.
        attacks: The conditions among the cells that are attacks on the model.
    """

    images: Images | Sequences
    cells: tuple[Cell, ...]
    form: Form
    sequences: bool = False
    attacks: tuple[str, ...] = ()

    @property
    def cropped(self) -> bool:
        """Whether the images were cropped to their final size before they were corrupted and stored."""
        return self.form == "stored" and any(cell.severity for cell in self.cells)

    @property
    def key(self) -> str:
        """Names the part in files: what it shows, and to whom it belongs."""
        content = [self.images.fingerprint, self.form, self.sequences, [cell.key for cell in self.cells]]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Unit:
    """A contiguous range of the images of a part: one batch, shown in all cells.

    Args:
        part: Position of the part in the plan.
        start: First image.
        stop: One behind the last.
    """

    part: int
    start: int
    stop: int


def units_of(parts: Sequence[Part], batch_size: int) -> list[Unit]:
    """The work in a fixed order; it follows from the plan and the batch size alone.

    Example:
        >>> class Three(list):
        ...     fingerprint = "three"
        >>> units_of([Part(Three("abc"), (Cell("clean"),), "stored")], batch_size=2)
        [Unit(part=0, start=0, stop=2), Unit(part=0, start=2, stop=3)]
    """
    units = []
    for place, part in enumerate(parts):
        # a sequence is a batch of frames already
        step = max(1, batch_size // FRAMES) if part.sequences else batch_size
        count = len(part.images)
        units += [Unit(place, start, min(start + step, count)) for start in range(0, count, step)]
    return units
