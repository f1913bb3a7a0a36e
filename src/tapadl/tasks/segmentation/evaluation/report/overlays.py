"""A few images as a reader wants to see them: clean and corrupted, what was predicted, and the truth."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from tapadl.corruptions import CORRUPTIONS
from tapadl.data.segmentation import LabelScheme
from tapadl.data.segmentation.labels import IGNORE, Mask
from tapadl.evaluation.plan import Cell
from tapadl.evaluation.report.words import corruption_label
from tapadl.tasks.segmentation.evaluation.benchmarks import Part
from tapadl.tasks.segmentation.evaluation.shown import image_in_cell, read_scene
from tapadl.tasks.segmentation.prediction import Predictor

MOST_IMAGES = 4
_MOST_PIXELS = 560  # of the longer side, in a page
_WRONG = (230, 30, 60)


@dataclass(frozen=True)
class Panel:
    """One picture of a row, with colours laid over it.

    Args:
        title: What it shows.
        picture: Which of the row's pictures lies below.
        mask: The colours as a data URI; None for the picture alone.
        describes: The colours in words, for those who do not see them.
    """

    title: str
    picture: int
    mask: str | None = None
    describes: str = ""


@dataclass(frozen=True)
class Example:
    """One image.

    Args:
        name: Of its file.
        pictures: Data URIs: as it is, then corrupted.
        panels: What is shown, in rows of three.
    """

    name: str
    pictures: tuple[str, ...]
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Overlays:
    """All examples of a benchmark, and name and colour of the classes in them."""

    examples: tuple[Example, ...]
    classes: tuple[tuple[str, tuple[int, int, int]], ...]


def make_overlays(parts: Sequence[Part], predictor: Predictor, *, seed: int) -> Overlays:
    """Ask the segmenter once more for a few images, spread over the data set and the corruptions.

    Args:
        parts: Of one benchmark.
        predictor: The segmenter.
        seed: Of the corruptions.
    """
    found: set[int] = set()
    examples = [_example(choice, predictor, seed, found) for choice in _choose(parts)]
    scheme = parts[0].files.scheme
    classes = [(scheme.class_names[index], scheme.colours[index]) for index in sorted(found)]
    return Overlays(tuple(examples), tuple(classes))


@dataclass(frozen=True, eq=False)
class _Choice:
    """Place of an image; the part with it as it is; and the one with it in a cell."""

    index: int
    clean: Part | None
    corrupted: tuple[Part, Cell] | None = None

    @property
    def part(self) -> Part:
        if self.clean is not None:
            return self.clean
        assert self.corrupted is not None
        return self.corrupted[0]


def _choose(parts: Sequence[Part]) -> list[_Choice]:
    corrupted = {cell: part for part in parts for cell in part.cells if cell.severity}
    clean = [part for part in parts if any(not cell.severity for cell in part.cells)]
    if not corrupted and len(clean) > 1:  # conditions of the weather: one image of each
        return [_Choice(0, part) for part in clean[:MOST_IMAGES]]
    count = len(parts[0].files)
    places = sorted({place * count // MOST_IMAGES for place in range(MOST_IMAGES)})
    if not corrupted:
        return [_Choice(place, clean[0]) for place in places]
    cells = (_spread(list(corrupted)) * MOST_IMAGES)[: len(places)]
    return [
        _Choice(place, clean[0] if clean else None, (corrupted[cell], cell))
        for place, cell in zip(places, cells, strict=True)
    ]


def _spread(cells: Sequence[Cell]) -> list[Cell]:
    """Of each group of corruptions one, and another place in each group, at a severity in the middle."""
    groups: dict[str, list[str]] = {}
    for cell in cells:
        members = groups.setdefault(CORRUPTIONS[cell.condition].group, [])
        members += [cell.condition] if cell.condition not in members else []
    names = [members[place % len(members)] for place, members in enumerate(groups.values())]
    chosen = []
    for name in names:
        severities = sorted(cell.severity for cell in cells if cell.condition == name)
        chosen.append(Cell(name, severities[len(severities) // 2]))
    return chosen


def _example(choice: _Choice, predictor: Predictor, seed: int, found: set[int]) -> Example:
    part, index = choice.part, choice.index
    image, labels = read_scene(part, index)
    truth = None if labels is None else _small_mask(labels.numpy())
    pictures: list[str] = []
    panels: list[Panel] = []

    def add(shown: torch.Tensor, title: str) -> Mask:
        """The picture and what is predicted on it."""
        predicted = _small_mask(predictor.classes(shown).byte().cpu().numpy())
        mask = _mask_uri(predicted, part.files.scheme)
        place = len(pictures)
        pictures.append(_jpeg_uri(_small(shown)))
        panels.append(Panel(title, place))
        panels.append(Panel("Prediction", place, mask, f"predicted classes, {title.lower()}"))
        found.update(np.unique(predicted).tolist())
        return predicted

    if choice.clean is not None:
        condition = part.cells[0].condition
        add(image, corruption_label(condition))
        if truth is not None:
            panels.append(Panel("Truth", 0, _mask_uri(truth, part.files.scheme), "labels"))
            found.update(set(np.unique(truth).tolist()) - {IGNORE})
    if choice.corrupted is not None:
        other, cell = choice.corrupted
        whole = image if other is part else read_scene(other, index)[0]
        shown = image_in_cell(whole, other, index, cell, seed=seed)
        predicted = add(shown, f"{corruption_label(cell.condition)}, severity {cell.severity}")
        if truth is not None:
            wrong = _flag_uri((predicted != truth) & (truth != IGNORE))
            panels.append(Panel("Wrong there", len(pictures) - 1, wrong, "pixels answered wrongly"))
    return Example(PurePosixPath(part.files.images[index]).stem, tuple(pictures), tuple(panels))


def _size_in_page(width: int, height: int) -> tuple[int, int]:
    factor = min(1.0, _MOST_PIXELS / max(width, height))
    return max(1, round(width * factor)), max(1, round(height * factor))


def _small(image: torch.Tensor) -> Image.Image:
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    return picture.resize(_size_in_page(*picture.size), Image.Resampling.LANCZOS)


def _small_mask(mask: Mask) -> Mask:
    picture = Image.fromarray(mask)
    return np.array(picture.resize(_size_in_page(*picture.size), Image.Resampling.NEAREST))


def _mask_uri(mask: Mask, scheme: LabelScheme) -> str:
    """Colours of classes, nothing where no class counts."""
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[: scheme.num_classes] = scheme.colours
    return _palette_uri(mask, palette, transparent=IGNORE)


def _flag_uri(flags: npt.NDArray[np.bool_]) -> str:
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[1] = _WRONG
    return _palette_uri(flags.astype(np.uint8), palette, transparent=0)


def _palette_uri(numbers: Mask, palette: npt.NDArray[np.uint8], *, transparent: int) -> str:
    picture = Image.fromarray(numbers)
    picture.putpalette(palette.tobytes())
    buffer = BytesIO()
    picture.save(buffer, "PNG", transparency=transparent, optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _jpeg_uri(picture: Image.Image) -> str:
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
