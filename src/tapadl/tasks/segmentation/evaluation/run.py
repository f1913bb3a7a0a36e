"""Running a plan: every image in every cell, in one process or shared by several."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image

from tapadl.data.atomic import write_atomically
from tapadl.data.segmentation import LabelScheme
from tapadl.evaluation import processes
from tapadl.evaluation.plan import Cell, Unit
from tapadl.evaluation.record import Record, UnitFile, join_cells
from tapadl.metrics import MeanIoU
from tapadl.tasks.segmentation.evaluation.benchmarks import Part
from tapadl.tasks.segmentation.evaluation.shown import ShownImages, load_shown
from tapadl.tasks.segmentation.model import LoadedSegmenter
from tapadl.tasks.segmentation.prediction import PredictionSettings, Predictor

UNITS = "units"


@dataclass(frozen=True)
class RunSettings:
    """How a plan is run.

    Args:
        seed: Of the corruptions.
        prediction: How the segmenter is asked.

    Raises:
        ValueError: If the seed is out of range.
    """

    seed: int = 0
    prediction: PredictionSettings = field(default_factory=PredictionSettings)

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"expected a seed from 0 to 2**64 - 1, got {self.seed}")


def units_of(parts: Sequence[Part]) -> list[Unit]:
    """The work in a fixed order: one image each, for their sizes differ."""
    return [
        Unit(place, index, index + 1) for place, part in enumerate(parts) for index in range(len(part.files))
    ]


def unit_file(parts: Sequence[Part], unit: Unit, folder: Path) -> UnitFile:
    """The file of a unit, with what it already holds.

    Raises:
        ValueError: If it is damaged.
    """
    return UnitFile(folder / UNITS / f"{parts[unit.part].key}-{unit.start:08}-{unit.stop:08}.jsonl")


def run_plan(
    parts: Sequence[Part],
    segmenter: LoadedSegmenter,
    folder: Path,
    settings: RunSettings,
    *,
    device: torch.device,
    num_workers: int = 0,
    predictions: Sequence[Path] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> None:
    """Show a segmenter all that is still missing, and write the record of every cell as it is made.

    Under torchrun every process takes each world-size-th image. What an image gives does not depend on that,
    so neither does the result.

    Args:
        parts: The plan.
        segmenter: What is asked.
        folder: Where the records go, the same for all processes.
        settings: Decide the numbers.
        device: Where the segmenter runs.
        num_workers: Processes that read and corrupt images, beside this one; changes no number.
        predictions: For each part the folder that predicted masks are written into; None for none.
        on_progress: Called with the number of images shown, also of those that an earlier run has shown.

    Raises:
        OSError: If an image cannot be read or a record not be written.
        ValueError: If the segmenter does not fit the images, or a file of records is damaged.
    """
    tell = on_progress or (lambda count: None)
    files: dict[Unit, UnitFile] = {}
    work: list[tuple[Unit, tuple[Cell, ...]]] = []
    for unit in units_of(parts)[processes.rank() :: processes.world_size()]:
        file = unit_file(parts, unit, folder)
        missing = tuple(cell for cell in parts[unit.part].cells if cell not in file.records)
        tell(len(parts[unit.part].cells) - len(missing))
        if missing:
            files[unit] = file
            work.append((unit, missing))
    if not work:
        return
    predictor = Predictor(segmenter, settings.prediction, device)
    for shown in load_shown(ShownImages(parts, work, seed=settings.seed), num_workers=num_workers):
        part = parts[shown.unit.part]
        try:
            classes = predictor.classes(shown.image)
        except ValueError as error:
            raise ValueError(f"{error} ({part.files.location(shown.unit.start)})") from error
        if predictions is not None:
            path = predictions[shown.unit.part] / shown.cell.key / prediction_name(part, shown.unit.start)
            write_prediction(path, classes, part.files.scheme)
        files[shown.unit].add(score(shown.cell, classes, shown.labels, predictor.num_classes))
        tell(1)


def score(cell: Cell, classes: torch.Tensor, labels: torch.Tensor | None, num_classes: int) -> Record:
    """What is counted of one image.

    Args:
        cell: Where it was shown.
        classes: Predicted ones (H, W).
        labels: (H, W), 255 where none counts; None where they are not known.
        num_classes: C.

    Returns:
        "pixels", (1, C, 3): of each class those in the intersection, predicted and labelled, where there are
        labels at all; and the confusion matrix (C, C), rows labels. Without labels "predicted" alone.
    """
    if labels is None:
        return Record(cell, {"predicted": np.array([True])}, {})
    metric = MeanIoU(num_classes)
    metric.update(classes, labels.to(classes.device))
    confusion = metric.counts.cpu().numpy()
    pixels = np.stack((confusion.diagonal(), confusion.sum(axis=0), confusion.sum(axis=1)), axis=1)
    return Record(cell, {"pixels": pixels[None].astype(np.uint32)}, {"confusion": confusion})


def prediction_name(part: Part, index: int) -> str:
    """The file of a predicted mask: called like the image."""
    return f"{PurePosixPath(part.files.images[index]).stem}.png"


def check_prediction_names(parts: Sequence[Part]) -> None:
    """Raise ValueError if two images of a part would write the same file."""
    for part in parts:
        seen: dict[str, str] = {}
        for index, image in enumerate(part.files.images):
            other = seen.setdefault(prediction_name(part, index), image)
            if other != image:
                raise ValueError(
                    f"expected images of different names to write predictions of, got {other} and {image}; "
                    "rename one, or leave out --predictions"
                )


def write_prediction(path: Path, classes: torch.Tensor, scheme: LabelScheme) -> None:
    """A mask with the numbers that the data set's label files have, as png.

    Raises:
        OSError: If it cannot be written.
    """
    buffer = BytesIO()
    Image.fromarray(scheme.to_values(classes.byte().cpu().numpy())).save(buffer, "PNG")
    write_atomically(path, buffer.getvalue())


def collect(parts: Sequence[Part], folder: Path) -> list[list[Record]]:
    """For every part the record of every cell, joined over its images.

    Raises:
        RuntimeError: If a record is missing.
    """
    files = [(unit, unit_file(parts, unit, folder)) for unit in units_of(parts)]
    return [
        join_cells(part.cells, [file for unit, file in files if unit.part == place])
        for place, part in enumerate(parts)
    ]
