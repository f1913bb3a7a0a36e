"""The images below a folder, class folders or not."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tapadl.data.labelled_files import is_image, list_folder


@dataclass(frozen=True)
class ImageTree:
    """Images in files, at any depth.

    Args:
        root: The folder above them all.
        paths: Relative to `root` with forward slashes, folder by folder, by name within a folder. In class
            folders that is the order of `tapadl evaluate`, so an image has the same position in both.
    """

    root: Path
    paths: tuple[str, ...] = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all paths."""
        return hashlib.sha256("\0".join(self.paths).encode("utf-8", "surrogateescape")).hexdigest()

    def size(self, path: str) -> int:
        """Of a file, in bytes; -1 for a link to nothing."""
        file = self.root / path
        return file.stat().st_size if file.exists() else -1


def find_images(root: Path) -> ImageTree:
    """All images below a folder; hidden files and folders, and files that are no images, are left out.

    Raises:
        OSError: If a folder is missing, is a file, or may not be read.
        ValueError: If there are no images or a link leads back to a folder above it.
    """
    paths = sorted(_walk(root, "", frozenset()), key=lambda path: path.split("/"))
    if not paths:
        raise ValueError(f"expected images in {root} or in folders inside it, got none")
    return ImageTree(root, tuple(paths))


def _walk(root: Path, inside: str, above: frozenset[Path]) -> Iterator[str]:
    real = (root / inside).resolve()
    if real in above:
        raise ValueError(f"expected a tree of folders in {root}, but {root / inside} leads back to {real}")
    folders, files = list_folder(root / inside)
    yield from (inside + name for name in files if is_image(name))
    for name in folders:
        yield from _walk(root, f"{inside}{name}/", above | {real})
