"""Labelled images in class folders: what is there, a fixed subset of it, one image at a time."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import ceil
from pathlib import Path

import numpy as np
from PIL import Image

from tapadl.data.image_file import read_image
from tapadl.data.subset import balanced_subset

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
FINGERPRINT_SIZES = 1000


@dataclass(frozen=True)
class LabelledFiles:
    """Images in files, one class each.

    Args:
        root: The folder above the class folders.
        paths: Of the images, relative to `root` with forward slashes, class by class, by name within a class.
        labels: The class of each image, an index into `class_names`.
        class_names: The class folders, in the order of the labels.
        outputs: The output of a model for each class; None where class i is output i. A model of 1,000
            outputs is judged on these alone where the images have 200 classes.
        subset_of: Of a subset, the position of each image in the whole set; None for the whole.

    Example:
        >>> files = LabelledFiles(Path("photos"), ("cat/a.png", "dog/b.png"), (0, 1), ("cat", "dog"))
        >>> len(files), files.labels
        (2, (0, 1))
    """

    root: Path
    paths: tuple[str, ...] = field(repr=False)
    labels: tuple[int, ...] = field(repr=False)
    class_names: tuple[str, ...] = field(repr=False)
    outputs: tuple[int, ...] | None = field(default=None, repr=False)
    subset_of: tuple[int, ...] | None = field(default=None, repr=False, compare=False)

    @property
    def positions(self) -> Sequence[int]:
        """The position of each image in the whole set: what its random draws depend on."""
        return range(len(self)) if self.subset_of is None else self.subset_of

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, index: int) -> Image.Image:
        """One image in RGB; `read_image` says how it is read.

        Raises:
            OSError: If the file is missing, cut short or no image.
        """
        return read_image(self.root / self.paths[index])

    def location(self, index: int) -> str:
        """The path of one image."""
        return str(self.root / self.paths[index])

    def subset(self, count: int) -> "LabelledFiles":
        """`count` of the images, as many of each class; the same ones everywhere (`balanced_subset`).

        Raises:
            ValueError: If `count` is no multiple of the number of classes or a class has too few images.
        """
        chosen = balanced_subset(self.labels, self.class_names, count)
        return replace(
            self,
            paths=tuple(self.paths[index] for index in chosen),
            labels=tuple(self.labels[index] for index in chosen),
            subset_of=tuple(self.positions[index] for index in chosen),
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all paths, labels and positions in the whole set, and of the sizes of up to 1,000 files.

        The files whose size is read are every k-th, k the smallest that gives no more than 1,000: enough to
        tell data that were encoded anew, without asking each of the 3.75 million files of a stored benchmark.
        """
        digest = hashlib.sha256(f"{len(self)}\0".encode())
        # No name contains the separator, and the other parts have fixed widths.
        digest.update(os.fsencode("\0".join(self.paths)))
        digest.update(np.array(self.labels, dtype="<i4").tobytes())
        digest.update(sampled_sizes(self.root, self.paths))
        if self.subset_of not in (None, tuple(range(len(self)))):
            digest.update(np.array(self.positions, dtype="<i8").tobytes())
        return digest.hexdigest()


def sampled_sizes(root: Path, paths: Sequence[str]) -> bytes:
    """The sizes of up to 1,000 files, every k-th, k the smallest that gives no more, as 64-bit integers."""
    step = max(1, ceil(len(paths) / FINGERPRINT_SIZES))
    try:
        sizes = [os.stat(os.path.join(root, path)).st_size for path in paths[::step]]
    except OSError as error:
        raise OSError(f"expected a file at {error.filename}, could not open it: {error.strerror}") from error
    return np.array(sizes, dtype="<i8").tobytes()


def class_folders(root: Path) -> tuple[str, ...]:
    """The names of the class folders in `root`, sorted as text; hidden ones do not count.

    Raises:
        OSError: If `root` is missing, no folder, or may not be read.
        ValueError: If there is no class folder, or an image lies beside them.
    """
    folders, files = list_folder(root)
    image = next((name for name in files if is_image(name)), None)
    if image is not None:
        advice = "move it into its class" if folders else "if the folder is one class, give the folder above"
        raise ValueError(f"expected only class folders in {root}, got the image {image!r}; {advice}")
    if not folders:
        raise ValueError(f"expected class folders with images in {root}, got none")
    lost = next((name for name in files if not (root / name).exists()), None)
    if lost is not None:
        raise ValueError(f"expected class folders in {root}, got the link {lost!r}, which leads nowhere")
    return tuple(folders)


def read_classes(
    root: Path, class_names: Sequence[str], outputs: tuple[int, ...] | None = None
) -> LabelledFiles:
    """The images in the class folders `class_names` of `root`; files that are no images are left out.

    Raises:
        OSError: If a folder is missing, is a file, or may not be read.
        ValueError: If a class has no images, or folders in place of images.
    """
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(class_names):
        images = _images_in(root / name)
        paths += [f"{name}/{image}" for image in images]
        labels += [label] * len(images)
    return LabelledFiles(root, tuple(paths), tuple(labels), tuple(class_names), outputs)


def _images_in(folder: Path) -> list[str]:
    folders, files = list_folder(folder)
    if folders:
        raise ValueError(
            f"expected images in {folder}, got the folder {folders[0]!r}, so {folder.parent} is one level "
            "too high (what lies below would become one class); give the folder right above the classes"
        )
    images = [name for name in files if is_image(name)]
    if not images:
        raise ValueError(
            f"expected images ({', '.join(IMAGE_SUFFIXES)}) in the class folder {folder}, "
            f"got {f'no images among {len(files)} files' if files else 'an empty folder'}"
        )
    return images


def is_image(name: str) -> bool:
    """Whether a file name has the ending of an image, in upper or lower case."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def list_folder(folder: Path) -> tuple[list[str], list[str]]:
    """The names of the folders and of the files in `folder`, sorted; hidden ones are left out.

    Raises:
        FileNotFoundError: If it does not exist.
        NotADirectoryError: If it is a file.
        PermissionError: If it may not be read.
    """
    folders: list[str] = []
    files: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    (folders if entry.is_dir() else files).append(entry.name)
    except FileNotFoundError:
        raise FileNotFoundError(f"expected a folder at {folder}, but there is none") from None
    except NotADirectoryError:
        raise NotADirectoryError(f"expected a folder at {folder}, got a file") from None
    except PermissionError:
        raise PermissionError(f"expected a folder that may be read at {folder}; change its rights") from None
    return sorted(folders), sorted(files)
