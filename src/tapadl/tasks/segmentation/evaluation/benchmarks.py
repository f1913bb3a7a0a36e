"""The segmentation benchmarks by name: their images, and the conditions these are shown in."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from tapadl.corruptions import CORRUPTIONS, SEVERITIES
from tapadl.data.segmentation import SegmentationFiles, open_segmentation
from tapadl.data.segmentation.acdc import CONDITIONS, acdc
from tapadl.data.segmentation.cityscapes import looks_stored, stored_cityscapes_c
from tapadl.evaluation.plan import CLEAN, Cell
from tapadl.tasks.segmentation.data import PUBLISHED_SIZE

Form = Literal["stored", "in_memory"]

SIXTEEN = (
    *("motion_blur", "defocus_blur", "glass_blur", "gaussian_blur"),
    *("gaussian_noise", "impulse_noise", "shot_noise", "speckle_noise"),
    *("brightness", "contrast", "saturate", "jpeg_compression"),
    *("snow", "spatter", "fog", "frost"),
)
"""The corruptions of Cityscapes-C as published."""

NOISE_SEVERITIES = (1, 2, 3)
"""Of Cityscapes-C; the other corruptions have all five."""


@dataclass(frozen=True)
class Benchmark:
    """A benchmark as data.

    Args:
        title: One line for help and reports.
        dataset: Name of its data set for `open_segmentation`.
        kind: "clean" images as they are, "corrupted" ones beside them, or "conditions" of the weather.
        constants: Side length whose constants corruptions have; None for that of each image.
    """

    title: str
    dataset: str
    kind: Literal["clean", "corrupted", "conditions"] = "clean"
    constants: int | None = None


BENCHMARKS = {
    "cityscapes": Benchmark("Cityscapes, 19 classes", "cityscapes"),
    "cityscapes-c": Benchmark(
        "Cityscapes-C: stored, or corrupted in memory", "cityscapes", "corrupted", PUBLISHED_SIZE
    ),
    "acdc": Benchmark("ACDC: fog, night, rain, snow", "acdc", "conditions"),
    "ade20k": Benchmark("ADE20K, 150 classes", "ade20k"),
    "ade20k-c": Benchmark("ADE20K, corrupted in memory", "ade20k", "corrupted"),
    "segmentation-folder": Benchmark("your images, masks and classes.json", "folder"),
    "segmentation-folder-c": Benchmark("your images and masks, corrupted in memory", "folder", "corrupted"),
}
"""Every benchmark, by name."""


@dataclass(frozen=True)
class Conditions:
    """What of a benchmark is shown.

    Args:
        split: Of the data set.
        corruptions: Names; None for the benchmark's own.
        severities: 1 to 5.
        subset: So many images, a fixed list, of ACDC in each condition; None for all.

    Raises:
        ValueError: If a severity or a corruption is none.
    """

    split: str = "val"
    corruptions: tuple[str, ...] | None = None
    severities: tuple[int, ...] = SEVERITIES
    subset: int | None = None

    def __post_init__(self) -> None:
        _check_known(self.severities, SEVERITIES, "severities")
        _check_known(self.corruptions or (), CORRUPTIONS, "corruptions")


@dataclass(frozen=True, eq=False)
class Part:
    """Images that are read once, and all the conditions they are shown in.

    Args:
        files: What is shown.
        cells: In the order of the results.
        form: Whether the images lie on disk as they are shown, or are corrupted when they are read.
        constants: Side length whose constants corruptions have; None for that of each image.
    """

    files: SegmentationFiles
    cells: tuple[Cell, ...]
    form: Form = "stored"
    constants: int | None = None

    @property
    def key(self) -> str:
        """Names the part in files: what it shows, and to whom it belongs."""
        content = [self.files.fingerprint, self.form, self.constants, [cell.key for cell in self.cells]]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


def check_benchmarks(names: Sequence[str], conditions: Conditions) -> None:
    """Raise ValueError unless all are benchmarks, none is named twice, and every condition meets one."""
    for name in names:
        if name not in BENCHMARKS:
            nearest = get_close_matches(name, BENCHMARKS, n=1)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            raise ValueError(
                f"expected a benchmark of segmentation out of {', '.join(BENCHMARKS)}, got {name!r}{hint}"
            )
    if len(set(names)) < len(names):
        raise ValueError(f"expected each benchmark once, got {', '.join(names)}")
    limited = conditions.corruptions is not None or set(conditions.severities) != set(SEVERITIES)
    if limited and all(BENCHMARKS[name].kind != "corrupted" for name in names):
        raise ValueError(
            f"expected a benchmark with corruptions, got {', '.join(names)}; "
            "name cityscapes-c, ade20k-c or segmentation-folder-c"
        )


def make_parts(name: str, root: Path | None, conditions: Conditions) -> list[Part]:
    """What has to be shown for a benchmark.

    Args:
        name: Of the benchmark.
        root: The folder of its data set.
        conditions: Which of it.

    Raises:
        ValueError: If the folder or the conditions do not fit.
        OSError: If the folder cannot be read.
    """
    benchmark = BENCHMARKS[name]
    if root is None:
        raise ValueError(f"expected the folder of {name}, got none; name it with --data {name}=FOLDER")
    if benchmark.kind == "conditions":
        return [
            Part(_cut(acdc(root, conditions.split, condition), conditions), (Cell(condition),))
            for condition in CONDITIONS
        ]
    if name == "cityscapes-c" and looks_stored(root):
        return _stored_parts(root, conditions)
    files = _cut(open_segmentation(benchmark.dataset, root, conditions.split), conditions)
    if benchmark.kind == "clean":
        return [Part(files, (Cell(CLEAN),))]
    cells = _corrupted_cells(name, conditions)
    return [Part(files, (Cell(CLEAN), *cells), "in_memory", benchmark.constants)]


def _corrupted_cells(name: str, conditions: Conditions) -> list[Cell]:
    own = SIXTEEN if name == "cityscapes-c" else tuple(CORRUPTIONS)
    names = own if conditions.corruptions is None else tuple(dict.fromkeys(conditions.corruptions))
    cells = [
        Cell(corruption, severity)
        for corruption in names
        for severity in conditions.severities
        if severity in severities_of(name, corruption)
    ]
    if not cells:
        raise ValueError(
            f"expected a severity that {name} has, for noise 1 to 3, got "
            f"{', '.join(map(str, conditions.severities))}"
        )
    return cells


def severities_of(benchmark: str, corruption: str) -> tuple[int, ...]:
    """The severities of a corruption that a benchmark has."""
    noise = CORRUPTIONS[corruption].group == "noise"
    return NOISE_SEVERITIES if benchmark == "cityscapes-c" and noise else SEVERITIES


def _stored_parts(root: Path, conditions: Conditions) -> list[Part]:
    """One part a folder of stored images, and the clean ones where they are."""
    if conditions.split != "val":
        raise ValueError(f"expected the split val of stored Cityscapes-C, got {conditions.split}")
    stored: Mapping[tuple[str, int], SegmentationFiles] = stored_cityscapes_c(root)
    missing = [
        cell.key
        for cell in _corrupted_cells("cityscapes-c", conditions)
        if (cell.condition, cell.severity) not in stored
    ]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ValueError(
            f"expected {', '.join(missing[:3])}{more} in {root}, found none; name those that are there with "
            "--corruptions and --severities"
        )
    parts = [
        Part(_cut(stored[cell.condition, cell.severity], conditions), (cell,))
        for cell in _corrupted_cells("cityscapes-c", conditions)
    ]
    if (root / "leftImg8bit" / "val").is_dir():
        clean = _cut(open_segmentation("cityscapes", root, "val"), conditions)
        parts.insert(0, Part(clean, (Cell(CLEAN),)))
    counts = sorted({len(part.files) for part in parts})
    if len(counts) > 1:
        raise ValueError(
            f"expected as many images in every folder of {root}, got {counts[0]} and {counts[-1]}"
        )
    return parts


def _cut(files: SegmentationFiles, conditions: Conditions) -> SegmentationFiles:
    return files if conditions.subset is None else files.subset(conditions.subset)


def _check_known(values: Sequence[object], known: Collection[object], what: str) -> None:
    for value in values:
        if value not in known:
            raise ValueError(f"expected {what} out of {', '.join(map(str, known))}, got {value!r}")
