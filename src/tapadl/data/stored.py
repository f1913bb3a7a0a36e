"""Corrupted images that lie on disk: <corruption>/<severity>/<class>/<image>, as ImageNet-C is published."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tapadl.data.class_names import are_numbers_of_v2, outputs_of
from tapadl.data.labelled_files import LabelledFiles, class_folders, list_folder, read_classes

LAYOUT = "<corruption>/<severity>/<class>"
SEVERITY_FOLDERS = ("1", "2", "3", "4", "5")
IMAGENET_C_ARCHIVES = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    "extra": ("speckle_noise", "gaussian_blur", "spatter", "saturate"),
}
IMAGENET_C_EXTRA = IMAGENET_C_ARCHIVES["extra"]
IMAGENET_C = tuple(
    name for archive, names in IMAGENET_C_ARCHIVES.items() if archive != "extra" for name in names
)
IMAGENET_3DCC = (
    "near_focus",
    "far_focus",
    "xy_motion_blur",
    "z_motion_blur",
    "flash",
    "fog_3d",
    "h265_crf",
    "h265_abr",
    "bit_error",
    "iso_noise",
    "color_quant",
    "low_light",
)
_BENCHMARKS = {"ImageNet-C": IMAGENET_C, "ImageNet-3DCC": IMAGENET_3DCC}
_PUBLISHED_ORDER = (*IMAGENET_C, *IMAGENET_C_EXTRA, *IMAGENET_3DCC)


def stored_corruptions(
    root: str | Path, corruptions: Sequence[str] | None = None
) -> dict[tuple[str, int], LabelledFiles]:
    """The images of a stored benchmark by corruption and severity, 1 to 5.

    ImageNet-C is taken as its archives unpack (`noise/gaussian_noise/1/n01440764/...`) and without the
    archives' own folders (`gaussian_noise/1/n01440764/...`). ImageNet-3DCC and other sets of the second form
    keep the names of their folders.

    Args:
        root: The folder above the corruptions or the archives' folders.
        corruptions: Which to read; None for all, and then the 15 of ImageNet-C and the 12 of ImageNet-3DCC
            have to be complete as soon as there is one of them. The 4 additional ones of ImageNet-C are read
            where they are.

    Returns:
        One entry a cell, corruptions in the published order. Classes and the number of images of each are
        the same in all.

    Raises:
        OSError: If a folder is missing, is a file, or may not be read.
        ValueError: If the layout is another, corruptions or severities are missing, a class is empty, or
            cells differ in their classes or in the number of images of a class.

    Source:
        Hendrycks, Dietterich, arXiv:1903.12261; Kar, Yeo, Atanov, Zamir, arXiv:2203.01441 (3DCC).
    """
    root = Path(root).expanduser()
    folders = _corruption_folders(root)
    wanted = _complete(folders, root) if corruptions is None else tuple(corruptions)
    _check_present(wanted, folders, root)
    for name in wanted:
        _check_severities(folders[name])
    cells: dict[tuple[str, int], LabelledFiles] = {}
    for name in wanted:
        for severity in SEVERITY_FOLDERS:
            files = _read_cell(folders[name] / severity)
            first = next(iter(cells.values()), files)
            _check_same_classes(files, first)
            if files.paths == first.paths:  # one list for all: 75 of them are a third of a gigabyte
                files = replace(files, paths=first.paths, labels=first.labels, class_names=first.class_names)
            cells[name, int(severity)] = files
    return cells


def looks_stored(root: str | Path) -> bool:
    """Whether `root` holds corruptions with severities, in full or in part, and not classes.

    True also for the folder of one corruption and for the folder above all of them, which
    `stored_corruptions` then refuses with advice.

    Raises:
        OSError: If `root` is missing, is a file, or may not be read.
    """
    root = Path(root).expanduser()
    folders, _ = list_folder(root)
    if _has_severities(root):
        return any(list_folder(root / name)[0] for name in folders if name in SEVERITY_FOLDERS)
    inside = [root / name for name in folders]
    # above a benchmark there is little beside it; a thousand class folders are not all looked into
    above = {path for place, path in enumerate(inside) if place < 10 or path.name in IMAGENET_C_ARCHIVES}
    inside += [path / name for path in above for name in _folders(path)]
    return any(_has_severities(path) for path in inside)


def is_stored_cell(folder: Path) -> bool:
    """Whether `folder` is, by its name and that of the folder above, one severity of a known corruption."""
    path = folder.absolute()
    return path.name in SEVERITY_FOLDERS and path.parent.name in _PUBLISHED_ORDER


def _corruption_folders(root: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in _candidates(root):
        if path.name in found:
            raise ValueError(
                f"expected each corruption once in {root}, got {path.name} in {found[path.name].parent} "
                f"and in {path.parent}"
            )
        found[path.name] = path
    if not found:
        raise ValueError(f"expected folders {LAYOUT} in {root}, got none")
    return found


def _candidates(root: Path) -> Iterable[Path]:
    names = _folders(root)
    if set(names) & set(SEVERITY_FOLDERS):
        raise ValueError(
            f"expected folders {LAYOUT} in {root}, got severities; "
            f"{root} is one level too low: give the folder above"
        )
    for name in names:
        path = root / name
        inside = _folders(path)
        if name in IMAGENET_C_ARCHIVES and not set(inside) & set(SEVERITY_FOLDERS):
            yield from (path / corruption for corruption in inside)
        elif set(inside) & set(SEVERITY_FOLDERS) or name in _PUBLISHED_ORDER:
            yield path
        else:
            raise ValueError(
                f"expected folders {LAYOUT} in {root}, got {_shown(inside)} in {name}; if those are "
                f"corruptions, {root} is one level too high, if {name} is a class, too low"
            )


def _complete(folders: dict[str, Path], root: Path) -> tuple[str, ...]:
    for benchmark, names in _BENCHMARKS.items():
        missing = [name for name in names if name not in folders]
        if missing and len(missing) < len(names):
            raise ValueError(
                f"expected all {len(names)} corruptions of {benchmark} in {root}, "
                f"{', '.join(missing)} missing; fetch them or ask for the others by name"
            )
    known = [name for name in _PUBLISHED_ORDER if name in folders]
    return (*known, *sorted(folders.keys() - set(known)))


def _check_present(wanted: Sequence[str], folders: dict[str, Path], root: Path) -> None:
    missing = [name for name in wanted if name not in folders]
    if missing or not wanted:
        raise ValueError(
            f"expected corruptions out of {', '.join(folders)} in {root}, got {', '.join(missing) or 'none'}"
        )


def _check_severities(folder: Path) -> None:
    folders, files = list_folder(folder)
    missing = [name for name in SEVERITY_FOLDERS if name not in folders]
    unknown = [name for name in folders if name not in SEVERITY_FOLDERS]
    if missing:
        as_files = [name for name in missing if name in files]
        raise ValueError(
            f"expected the severities 1 to 5 as folders in {folder}, {', '.join(missing)} missing"
            + (f" ({', '.join(as_files)} there as a file)" if as_files else "")
        )
    if unknown:
        raise ValueError(
            f"expected the severities 1 to 5 and no more in {folder}, got also {_shown(unknown)}"
        )


def _read_cell(folder: Path) -> LabelledFiles:
    names = class_folders(folder)
    if are_numbers_of_v2(names):
        names = tuple(sorted(names, key=int))
    return read_classes(folder, names, outputs_of(names))


def _check_same_classes(files: LabelledFiles, first: LabelledFiles) -> None:
    if files.class_names != first.class_names:
        differing = sorted(set(files.class_names) ^ set(first.class_names))
        raise ValueError(
            f"expected the same class folders in {files.root} as in {first.root}, "
            f"but only one of them has {_shown(differing)}"
        )
    if files.labels != first.labels:
        count, other = (np.bincount(cell.labels, minlength=len(cell.class_names)) for cell in (files, first))
        label = int((count != other).argmax())
        raise ValueError(
            f"expected as many images of {files.class_names[label]} in {files.root} as in {first.root}, "
            f"got {count[label]} and {other[label]}; unpack it again"
        )


def _has_severities(folder: Path) -> bool:
    return any((folder / name).is_dir() for name in SEVERITY_FOLDERS)


def _folders(folder: Path) -> list[str]:
    return list_folder(folder)[0]


def _shown(names: Sequence[str]) -> str:
    return f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}" if names else "no folders"
