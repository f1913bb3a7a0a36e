"""The images of an evaluation as a model is shown them, batch by batch."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from tapadl.corruptions import CORRUPTIONS, corrupt
from tapadl.corruptions.perturbations import perturb
from tapadl.evaluation.plan import Cell, Form, Images, Part, Sequences, Unit
from tapadl.evaluation.preprocessing import Preprocessing

# The quality at which the published corrupted images are stored.
STORED_QUALITY = 85
# ImageNet-P cuts its frames of 224 pixels from images whose shorter side is 256.
SEQUENCE_SIDE, FRAME_SIDE = 256, 224

Made = Iterator[tuple[Cell, torch.Tensor]]


@dataclass(frozen=True, eq=False)
class Shown:
    """The images of a unit in one cell.

    Args:
        unit: Which images.
        cell: Which condition.
        images: (B, C, H, W), uint8; of sequences (B, frames, C, H, W).
    """

    unit: Unit
    cell: Cell
    images: torch.Tensor


@dataclass(frozen=True, eq=False)
class Failure:
    """What went wrong in place of the images."""

    error: OSError | ValueError | RuntimeError


class ShownImages(IterableDataset[Shown | Failure]):
    """Every unit in every cell it still has to be shown in.

    An image is read and resized once for all cells of its unit. What it looks like in a cell follows from
    (seed, its index, corruption, severity) alone, and is rounded to 8 bits like a stored benchmark.

    Args:
        parts: The plan.
        work: Units and the cells they still need.
        preprocessing: Of the model.
        seed: Of the corruptions.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        work: Sequence[tuple[Unit, tuple[Cell, ...]]],
        preprocessing: Preprocessing,
        *,
        seed: int,
    ) -> None:
        self.parts = parts
        self.work = work
        self.preprocessing = preprocessing
        self.seed = seed

    def __iter__(self) -> Iterator[Shown | Failure]:
        worker = get_worker_info()
        mine = self.work if worker is None else self.work[worker.id :: worker.num_workers]
        for unit, cells in mine:
            part = self.parts[unit.part]
            make = self._sequences if part.sequences else self._images
            try:
                yield from (Shown(unit, cell, shown) for cell, shown in make(part, unit, cells))
            except (OSError, ValueError, RuntimeError) as error:
                # torch would send a worker's traceback in place of what it says
                yield Failure(error)
                return

    def _images(self, part: Part, unit: Unit, cells: tuple[Cell, ...]) -> Made:
        preprocessing = self.preprocessing.as_stored() if part.cropped else self.preprocessing
        images = _read(part, unit, preprocessing)
        for cell in cells:
            yield cell, in_cell(images, cell, part.form, indices=_positions(part, unit), seed=self.seed)

    def _sequences(self, part: Part, unit: Unit, cells: tuple[Cell, ...]) -> Made:
        if part.form == "stored":
            films = _read_films(part, unit, self.preprocessing.as_stored())
            yield from ((cell, films) for cell in cells)
            return
        # what moves is larger than what the model sees, so that little black comes in from outside
        height, width = self.preprocessing.image_size
        margin = SEQUENCE_SIDE / FRAME_SIDE if height == width else 1.0
        larger = (round(height * margin), round(width * margin))
        wide = replace(self.preprocessing, image_size=larger, crop_pct=1.0)
        images = _read(part, unit, wide) / 255
        indices = _positions(part, unit)
        for cell in cells:
            frames = perturb(
                images,
                cell.condition,
                seed=self.seed,
                indices=indices,
                crop_size=height if height == width else None,
            )
            yield cell, frames.mul_(255).round_().byte()


def _read_films(part: Part, unit: Unit, preprocessing: Preprocessing) -> torch.Tensor:
    films = cast(Sequences, part.images)
    prepared = [
        torch.stack([preprocessing.prepare(to_pil_image(frame)) for frame in films.frames(index)])
        for index in range(unit.start, unit.stop)
    ]
    lengths = sorted({len(frames) for frames in prepared})
    if len(lengths) > 1:
        raise ValueError(
            f"expected films of equal length, got {lengths[0]} and {lengths[-1]} frames; "
            "look for films cut short, or evaluate with --batch-size 1"
        )
    return torch.stack(prepared)


def _positions(part: Part, unit: Unit) -> torch.Tensor:
    return torch.tensor(cast(Images, part.images).positions[unit.start : unit.stop])


def _read(part: Part, unit: Unit, preprocessing: Preprocessing) -> torch.Tensor:
    images = cast(Images, part.images)
    return torch.stack([preprocessing.prepare(images.image(index)) for index in range(unit.start, unit.stop)])


def in_cell(
    images: torch.Tensor, cell: Cell, form: Form, *, indices: torch.Tensor, seed: int
) -> torch.Tensor:
    """Images in the condition of a cell.

    Args:
        images: (B, C, H, W), uint8.
        cell: Which condition; only corruptions change the images here.
        form: Stored images stay as they are.
        indices: (B,), int64: the position of each image in its data set.
        seed: Of the corruptions.

    Returns:
        (B, C, H, W), uint8.
    """
    if form == "stored" or cell.condition not in CORRUPTIONS:
        return images
    corrupted = corrupt(images / 255, cell.condition, cell.severity, seed=seed, indices=indices)
    rounded = corrupted.mul_(255).round_().byte()
    return torch.stack([_through_jpeg(image) for image in rounded]) if form == "in_memory_jpeg85" else rounded


def _through_jpeg(image: torch.Tensor) -> torch.Tensor:
    file = io.BytesIO()
    to_pil_image(image).save(file, "JPEG", quality=STORED_QUALITY)
    decoded: torch.Tensor = pil_to_tensor(Image.open(file))
    return decoded


def load_shown(dataset: ShownImages, *, num_workers: int) -> Iterator[Shown]:
    """The images, made by so many processes beside this one; 0 for none.

    Raises:
        OSError: If an image cannot be read.
        ValueError: If one does not fit the model.
    """
    for shown in DataLoader(dataset, batch_size=None, num_workers=num_workers):
        if isinstance(shown, Failure):
            raise shown.error
        yield shown
