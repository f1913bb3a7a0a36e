"""Find the images of a split and the label file of each, or say what is wrong with the folder."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from tapadl.data.labelled_files import is_image
from tapadl.data.segmentation.files import SegmentationFiles
from tapadl.data.segmentation.labels import LabelScheme

SPLITS = ("train", "val", "test")


def check_split(split: str) -> None:
    """Raise ValueError unless it is train, val or test."""
    if split not in SPLITS:
        raise ValueError(f"expected a split out of {', '.join(SPLITS)}, got {split!r}")


def check_root(root: Path, folders: Sequence[str], what: str) -> None:
    """That a data set lies in a folder as published.

    Args:
        root: The folder above `folders`.
        folders: What it must hold.
        what: Name of the data set.

    Raises:
        OSError: If a folder is missing; the message says so if it is one level too high or too low.
    """
    missing = [name for name in folders if not (root / name).is_dir()]
    if not missing:
        return
    wanted = " and ".join(folders)
    if not root.is_dir():
        raise FileNotFoundError(f"expected the folder of {what}, with {wanted} in it, at {root}, got none")
    below = sorted(child.name for child in root.iterdir() if all((child / name).is_dir() for name in folders))
    if below:
        hint = f"it is one level too high: give {root / below[0]}"
    elif root.name in folders or any((parent / folders[0]).is_dir() for parent in root.parents[:3]):
        hint = f"it is too low: give the folder above {folders[0]}"
    else:
        found = sorted(child.name for child in root.iterdir())
        hint = f"there is {', '.join(found[:5])}" if found else "it is empty"
    raise FileNotFoundError(f"expected {wanted} of {what} in {root}, got no {missing[0]}; {hint}")


def files_below(root: Path, folder: str, ending: str) -> list[str]:
    """Paths, relative to `root` and sorted, of the files anywhere in a folder whose names end so.

    Raises:
        OSError: If there is no such folder.
        ValueError: If it holds no such file.
    """
    found = _below(root, folder, ending)
    if not found:
        raise ValueError(f"expected files that end in {ending} in {root / folder}, got none")
    return found


def _below(root: Path, folder: str, ending: str) -> list[str]:
    if not (root / folder).is_dir():
        raise FileNotFoundError(f"expected a folder at {root / folder}, but there is none")
    found = []
    for path, folders, names in os.walk(root / folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        here = Path(path).relative_to(root).as_posix()
        found += [f"{here}/{name}" for name in names if name.endswith(ending) and not name.startswith(".")]
    return sorted(found)


def images_below(root: Path, folder: str) -> list[str]:
    """As `files_below`, of all images.

    Raises:
        OSError: If there is no such folder.
        ValueError: If it holds no image.
    """
    found = [path for path in _below(root, folder, "") if is_image(path)]
    if not found:
        raise ValueError(f"expected images in {root / folder}, got none")
    return found


def paired(
    root: Path, images: Sequence[str], masks: Sequence[str], scheme: LabelScheme, labels: Mapping[str, str]
) -> SegmentationFiles:
    """Images and their label files: all of them exist, and no other.

    Args:
        root: The folder of the data set.
        images: Relative to it.
        masks: The label file of each image.
        scheme: What their numbers mean.
        labels: By folder that holds only label files of these images, how their names end.

    Raises:
        ValueError: If two images have one label file, or a label file has no image.
        OSError: If an image has no label file.
    """
    owner: dict[str, str] = {}
    for image, mask in zip(images, masks, strict=True):
        if mask in owner:
            raise ValueError(
                f"expected an image for each label file, got {owner[mask]} and {image} for {mask} in {root}"
            )
        owner[mask] = image
    missing = [mask for mask in masks if not (root / mask).is_file()]
    if missing:
        raise FileNotFoundError(
            f"expected a label file for each of {len(images)} images in {root}, got {len(missing)} without, "
            f"such as {owner[missing[0]]}, whose labels would be {missing[0]}"
        )
    found = [path for folder, ending in labels.items() for path in files_below(root, folder, ending)]
    strangers = sorted(set(found) - set(masks))
    if strangers:
        raise ValueError(
            f"expected an image for each label file in {root}, got {len(strangers)} without, such as "
            f"{strangers[0]}"
        )
    return SegmentationFiles(root, tuple(images), tuple(masks), scheme)
