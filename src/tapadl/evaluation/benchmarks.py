"""The benchmarks by name: where their images come from and the conditions they are shown in."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, TypeVar

from tapadl.corruptions import CORRUPTIONS, SEVERITIES
from tapadl.corruptions.perturbations import PERTURBATIONS
from tapadl.data.class_names import wordnet_ids
from tapadl.data.embedded import EmbeddedImages
from tapadl.data.imagenet import (
    image_folder,
    imagenet,
    imagenet_a,
    imagenet_r,
    imagenet_sketch,
    imagenet_v2,
    looks_stored,
    stored_corruptions,
)
from tapadl.data.perturbation import PerturbationSequences, stored_perturbations
from tapadl.data.stored import IMAGENET_3DCC, IMAGENET_C, IMAGENET_C_EXTRA
from tapadl.evaluation.plan import ATTACKS, CLEAN, Cell, Form, Images, Labelled, Part

_Labelled = TypeVar("_Labelled", bound=Labelled)
ALL = ("all",)
IN_MCE = tuple(name for name, corruption in CORRUPTIONS.items() if corruption.in_mce)


@dataclass(frozen=True)
class Benchmark:
    """A benchmark as data.

    Args:
        title: One line for help and reports.
        kind: "clean" images as they are, "corrupted" stored or in memory, "stored" corruptions only,
            "sequences" of perturbed frames.
        read: Images from the folder of the data set, where they are not stored corrupted.
    """

    title: str
    kind: Literal["clean", "corrupted", "stored", "sequences"]
    read: Callable[[Path], Images]


def _embedded(_root: Path) -> Images:
    return EmbeddedImages.load()


BENCHMARKS = {
    "imagenet": Benchmark("ImageNet-1k validation images, 1000 class folders", "clean", imagenet),
    "imagenet-c": Benchmark(
        "ImageNet-C: stored, or made in memory from validation images", "corrupted", imagenet
    ),
    "imagenet-3dcc": Benchmark("ImageNet-3DCC, stored", "stored", imagenet),
    "imagenet-p": Benchmark("ImageNet-P: stored mp4, or made in memory", "sequences", imagenet),
    "imagenet-a": Benchmark("ImageNet-A, 200 classes", "clean", imagenet_a),
    "imagenet-r": Benchmark("ImageNet-R, 200 classes", "clean", imagenet_r),
    "imagenet-sketch": Benchmark("ImageNet-Sketch, 1000 classes", "clean", imagenet_sketch),
    "imagenet-v2": Benchmark("ImageNet-V2, folders 0 to 999", "clean", imagenet_v2),
    "folder": Benchmark("any folder of class folders", "clean", image_folder),
    "folder-c": Benchmark(
        "any folder of class folders, corrupted here or by tapadl corrupt", "corrupted", image_folder
    ),
    "embedded": Benchmark("4,000 test images of Fashion-MNIST in the package", "clean", _embedded),
    "embedded-c": Benchmark("the images of embedded, corrupted in memory", "corrupted", _embedded),
}
"""Every benchmark, by name."""

WITHOUT_DATA = ("embedded", "embedded-c")


@dataclass(frozen=True)
class Conditions:
    """What of a benchmark is shown.

    Args:
        corruptions: Names; None for the benchmark's own, such as the fifteen of the mean corruption error;
            `ALL` for all that it knows, such as nineteen.
        severities: 1 to 5.
        subset: So many images, a fixed list; None for all.
        jpeg: Corrupted images go through JPEG at quality 85 like the published ones.
        attacks: Names of attacks, on clean images.
    """

    corruptions: tuple[str, ...] | None = None
    severities: tuple[int, ...] = SEVERITIES
    subset: int | None = None
    jpeg: bool = False
    attacks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for severity in self.severities:
            if severity not in SEVERITIES:
                raise ValueError(f"expected severities from 1 to 5, got {severity}")


def check_benchmark(name: str) -> Benchmark:
    """The benchmark of a name.

    Raises:
        ValueError: If there is none; the message has the nearest.
    """
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    nearest = get_close_matches(name, BENCHMARKS, n=1)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    raise ValueError(f"expected a benchmark out of {', '.join(BENCHMARKS)}, got {name!r}{hint}")


def check_benchmarks(names: Sequence[str], conditions: Conditions) -> None:
    """Raise ValueError unless all are benchmarks, none is named twice, and every condition meets one."""
    kinds = {check_benchmark(name).kind for name in names}
    if len(set(names)) < len(names):
        raise ValueError(f"expected each benchmark once, got {', '.join(names)}")
    if conditions.attacks and "clean" not in kinds:
        raise ValueError(
            f"expected a benchmark of clean images to attack, got {', '.join(names)}; "
            "name imagenet, folder or embedded"
        )
    if conditions.corruptions is not None and kinds == {"clean"}:
        raise ValueError(
            f"expected a benchmark with corruptions, got {', '.join(names)}; "
            "name imagenet-c, folder-c or embedded-c"
        )
    if set(conditions.severities) != set(SEVERITIES) and not kinds & {"corrupted", "stored"}:
        raise ValueError(f"expected a benchmark with severities, got {', '.join(names)}")
    if conditions.jpeg and "corrupted" not in kinds:
        raise ValueError(f"expected a benchmark that is corrupted in memory for JPEG, got {', '.join(names)}")


def make_parts(name: str, root: Path | None, conditions: Conditions) -> list[Part]:
    """What has to be shown for a benchmark.

    Args:
        name: Of the benchmark.
        root: The folder of its images; None for the images of the package.
        conditions: Which of it.

    Raises:
        ValueError: If the name, the folder or the conditions do not fit.
        OSError: If the folder cannot be read.
    """
    benchmark = check_benchmark(name)
    if root is None and name not in WITHOUT_DATA:
        raise ValueError(f"expected the folder of {name}, got none; name it with --data {name}=FOLDER")
    if root is not None and name in WITHOUT_DATA:
        raise ValueError(f"expected no folder for {name}, whose images are in the package, got {root}")
    folder = root or Path()
    if benchmark.kind == "sequences":
        return _sequence_parts(folder, conditions)
    if benchmark.kind == "stored" or (benchmark.kind == "corrupted" and root and looks_stored(folder)):
        return _stored_parts(name, folder, conditions)
    images = _cut(benchmark.read(folder), conditions.subset)
    if benchmark.kind == "clean":
        attacks = tuple(Cell(attack) for attack in _known(conditions.attacks, ATTACKS, "attacks"))
        return [Part(images, (Cell(CLEAN), *attacks), "stored", attacks=conditions.attacks)]
    names = _chosen(conditions.corruptions, IN_MCE, CORRUPTIONS)
    form: Form = "in_memory_jpeg85" if conditions.jpeg else "in_memory"
    cells = tuple(Cell(name, severity) for name in names for severity in conditions.severities)
    return [Part(images, (Cell(CLEAN), *cells), form)]


def _stored_parts(name: str, root: Path, conditions: Conditions) -> list[Part]:
    """One part a folder of stored images; by default the fifteen, or whatever 3DCC holds."""
    if conditions.jpeg:
        raise ValueError(f"expected images that are corrupted in memory for JPEG, got stored ones in {root}")
    every = tuple(CORRUPTIONS) if name == "imagenet-c" else None
    stored = stored_corruptions(root, every if conditions.corruptions == ALL else conditions.corruptions)
    names = tuple(dict.fromkeys(corruption for corruption, _ in stored))
    own = IMAGENET_3DCC if name == "imagenet-3dcc" else IMAGENET_C + IMAGENET_C_EXTRA
    strangers = [one for one in names if one not in own]
    if name != "folder-c" and strangers:
        raise ValueError(f"expected the corruptions of {name} in {root}, got {', '.join(strangers)}")
    if conditions.corruptions is None and name == "imagenet-c":
        names = tuple(one for one in names if one in IN_MCE)
    classes = {images.class_names for images in stored.values()}
    if name != "folder-c" and classes != {wordnet_ids()}:
        raise ValueError(
            f"expected the 1000 class folders of ImageNet, named by WordNet id, in every folder of {root}, "
            f"got {len(max(classes, key=len))} classes; evaluate others as folder-c"
        )
    return [
        Part(_cut(stored[one, severity], conditions.subset), (Cell(one, severity),), "stored")
        for one in names
        for severity in conditions.severities
    ]


def _sequence_parts(root: Path, conditions: Conditions) -> list[Part]:
    """One part a perturbation of stored sequences, or one for all that are made in memory."""
    found = _stored_sequences(root)
    published = [name for name, perturbation in PERTURBATIONS.items() if perturbation.in_mfr]
    if found:
        if conditions.corruptions is None and (absent := [name for name in published if name not in found]):
            raise ValueError(
                f"expected all {len(published)} perturbations of ImageNet-P in {root}, {', '.join(absent)} "
                f"missing; name those that are there with --corruptions"
            )
        names = _chosen(conditions.corruptions, published, found)
        _check_same_films({name: found[name] for name in names})
        return [
            Part(_cut(found[name], conditions.subset), (Cell(name),), "stored", sequences=True)
            for name in names
        ]
    names = _chosen(conditions.corruptions, published, PERTURBATIONS)
    images = _cut(imagenet(root), conditions.subset)
    return [Part(images, tuple(Cell(name) for name in names), "in_memory", sequences=True)]


def _check_same_films(found: Mapping[str, PerturbationSequences]) -> None:
    """What one film adds to the mean over perturbations can be told only if all have it."""
    (first, films), *others = found.items()
    for name, own in others:
        if own.paths != films.paths:
            differing = sorted(set(own.paths) ^ set(films.paths))
            raise ValueError(
                f"expected the same films in {own.root} as in {films.root}, but only one of them has "
                f"{differing[0]}; unpack it again, or evaluate {first} and {name} apart"
            )


def _stored_sequences(root: Path) -> dict[str, PerturbationSequences]:
    """The folders of films that are named like a perturbation, such as tilt or gaussian_noise_2."""
    if not root.is_dir():
        raise FileNotFoundError(f"expected a folder of images or of films at {root}, got none")
    folders = (child for child in root.iterdir() if child.is_dir())
    if any(re.sub(r"_[123]$", "", child.name) in PERTURBATIONS for child in folders):
        return stored_perturbations(root)
    return {}


def _cut(images: _Labelled, count: int | None) -> _Labelled:
    return images if count is None else images.subset(count)


def _chosen(names: tuple[str, ...] | None, own: Collection[str], known: Collection[str]) -> tuple[str, ...]:
    if names is None:
        return tuple(own)
    return tuple(known) if names == ALL else _known(names, known)


def _known(names: Sequence[str], known: Collection[str], what: str = "corruptions") -> tuple[str, ...]:
    for name in names:
        if name not in known:
            raise ValueError(f"expected {what} out of {', '.join(known)}, got {name!r}")
    return tuple(dict.fromkeys(names))
