"""The images of an evaluation as a segmenter is shown them, one by one, each with its labels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from tapadl.corruptions import corrupt
from tapadl.evaluation.plan import Cell, Unit
from tapadl.evaluation.shown import Failure
from tapadl.tasks.segmentation.evaluation.benchmarks import Part

Work = Sequence[tuple[Unit, tuple[Cell, ...]]]


@dataclass(frozen=True, eq=False)
class ShownImage:
    """One image in one cell.

    Args:
        unit: Which image.
        cell: Which condition.
        image: (3, H, W), uint8.
        labels: (H, W), uint8, 255 where none counts; None where the data set keeps them to itself.
    """

    unit: Unit
    cell: Cell
    image: torch.Tensor
    labels: torch.Tensor | None


class ShownImages(IterableDataset[ShownImage | Failure]):
    """Every image in every cell it still has to be shown in.

    An image is read once for all cells of its part. What it looks like in a cell follows from (seed, its
    position in the data set, corruption, severity) alone, and is rounded to 8 bits like a stored one.

    Args:
        parts: The plan.
        work: Units of one image and the cells they still need.
        seed: Of the corruptions.
    """

    def __init__(self, parts: Sequence[Part], work: Work, *, seed: int) -> None:
        self.parts = parts
        self.work = work
        self.seed = seed

    def __iter__(self) -> Iterator[ShownImage | Failure]:
        worker = get_worker_info()
        mine = self.work if worker is None else self.work[worker.id :: worker.num_workers]
        for unit, cells in mine:
            part = self.parts[unit.part]
            try:
                image, labels = read_scene(part, unit.start)
                for cell in cells:
                    shown = image_in_cell(image, part, unit.start, cell, seed=self.seed)
                    yield ShownImage(unit, cell, shown, labels)
            except (OSError, ValueError, RuntimeError) as error:
                # torch would send a worker's traceback in place of what it says
                yield Failure(error)
                return


def read_scene(part: Part, index: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """An image (3, H, W), uint8, and its labels (H, W), uint8, where there are any.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If image and labels do not fit each other.
    """
    if not part.files.labelled:
        return pixels_of(part.files.image(index)), None
    image, labels = part.files.pair(index)
    return pixels_of(image), torch.from_numpy(labels)


def pixels_of(image: Image.Image) -> torch.Tensor:
    """An RGB picture as (3, H, W), uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def image_in_cell(image: torch.Tensor, part: Part, index: int, cell: Cell, *, seed: int) -> torch.Tensor:
    """An image in the condition of a cell.

    Args:
        image: (3, H, W), uint8.
        part: Of which it is one.
        index: Its place there.
        cell: Which condition; what is stored stays as it is.
        seed: Of the corruptions.

    Returns:
        (3, H, W), uint8.
    """
    if part.form == "stored" or not cell.severity:
        return image
    corrupted = corrupt(
        image[None] / 255,
        cell.condition,
        cell.severity,
        seed=seed,
        indices=torch.tensor([part.files.positions[index]]),
        image_size=part.constants,
    )
    return corrupted[0].mul_(255).round_().byte()


def load_shown(dataset: ShownImages, *, num_workers: int) -> Iterator[ShownImage]:
    """The images, made by so many processes beside this one; 0 for none.

    Raises:
        OSError: If an image cannot be read.
        ValueError: If image and labels do not fit each other.
    """
    for shown in DataLoader(dataset, batch_size=None, num_workers=num_workers):
        if isinstance(shown, Failure):
            raise shown.error
        yield shown
