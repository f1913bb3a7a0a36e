"""Images inside tar files, read by position: class folders, a tar a class, or webdataset shards.

timm's readers do not serve here: its reader of webdataset shards is a stream, whose order follows from the
number of workers and which cannot begin in the middle; its reader of tar files keeps them open, and forked
workers would share one place in a file. Here the tar files are listed once, and an image is so many bytes
from an offset on. Listing takes about 25 microseconds a member: a minute or so for ImageNet's training set.
"""

import hashlib
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np

from tapadl.data.encoded_images import EncodedImages
from tapadl.data.labelled_files import IMAGE_SUFFIXES, is_image

LABEL_SUFFIXES = ("cls", "json")
MOST_CLASSES = 10**6  # a larger number in a label file is something else, such as a hash


@dataclass(frozen=True)
class TarSource:
    """Where images lie in tar files; a file is opened for each read, so that processes share nothing.

    Args:
        shards: The tar files.
        names: Of each image, the path inside its tar file.
        places: (N, 3), int64: which shard, offset and size in bytes.
    """

    shards: tuple[Path, ...]
    names: tuple[str, ...] = field(repr=False)
    places: np.ndarray[tuple[int, int], np.dtype[np.int64]] = field(repr=False)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all names and places."""
        digest = hashlib.sha256("\0".join(self.names).encode("utf-8", "surrogateescape"))
        digest.update(np.ascontiguousarray(self.places, dtype="<i8").tobytes())
        return digest.hexdigest()

    def read(self, position: int) -> bytes:
        """The encoded bytes of one image; fewer than it has, if the tar file was cut short since."""
        shard, offset, size = self.places[position].tolist()
        with open(self.shards[shard], "rb") as file:
            file.seek(offset)
            return file.read(size)

    def location(self, position: int) -> str:
        """The path of the tar file, and in it."""
        return f"{self.shards[int(self.places[position, 0])]}/{self.names[position]}"


UNREADABLE = -1


@dataclass(frozen=True, slots=True)
class _Member:
    shard: int
    name: str
    offset: int
    size: int
    label: int | None = None  # what a .cls or .json file says; of one that says nothing UNREADABLE

    @property
    def sample(self) -> tuple[int, str]:
        """What webdataset calls the key: the path up to the first dot of the file name."""
        return self.shard, _key_and_suffix(self.name)[0]


def tar_images(pattern: str) -> EncodedImages:
    """The images in one or more tar files.

    Where files `.cls` or `.json` lie beside the images (webdataset shards), the label is the number in the
    first or under "label" in the second, and classes are named by their numbers. Otherwise an image belongs
    to the class of its folder or, where it is in none, of its tar file, which may lie in another tar file;
    classes are in the order of their names as text, as in `image_folder`.

    Args:
        pattern: A tar file, a folder of tar files, or several by wildcards or a range:
            `shards/train-{0000..1023}.tar`, `shards/train-*.tar`.

    Raises:
        OSError: If there is no such file, or one cannot be read as a tar file.
        ValueError: If there are no images, only some have a label, or images in no folder have files beside
            them that tell no class.
    """
    shards = _find(pattern)
    images: list[_Member] = []
    labels: dict[tuple[int, str], int] = {}
    unreadable: dict[tuple[int, str], str] = {}
    for number, shard in enumerate(shards):
        for member in _members(shard, number):
            if member.label is None:
                images.append(member)
            elif member.label == UNREADABLE:
                unreadable[member.sample] = member.name
            else:
                labels[member.sample] = member.label
    if not images:
        raise ValueError(f"expected images ({', '.join(IMAGE_SUFFIXES)}) in {pattern}, got none")
    if any(image.sample in labels for image in images):
        images = [image for image in images if f".{_key_and_suffix(image.name)[1]}" in IMAGE_SUFFIXES]
        targets, class_names = _numbered_classes(images, labels, shards)
    else:
        for image in images:
            if "/" not in image.name and image.sample in unreadable:
                raise ValueError(
                    f"expected a class, as a number in .cls or under 'label' in .json, beside {image.name} "
                    f"in {shards[image.shard]}, got none in {unreadable[image.sample]}"
                )
        targets, class_names = _named_classes(images, shards)
    places = np.array([(image.shard, image.offset, image.size) for image in images], dtype=np.int64)
    source = TarSource(shards, tuple(image.name for image in images), places)
    return EncodedImages(source, targets, class_names)


def _numbered_classes(
    images: list[_Member], labels: dict[tuple[int, str], int], shards: tuple[Path, ...]
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    seen: set[tuple[int, str]] = set()
    for image in images:
        if image.sample not in labels or image.sample in seen:
            problem = "a second one of the same sample" if image.sample in seen else "none"
            raise ValueError(
                f"expected one image and its label (.cls, or .json with an integer 'label') for each sample "
                f"in {shards[image.shard]}, got {problem} at {image.name}"
            )
        seen.add(image.sample)
    targets = tuple(labels[image.sample] for image in images)
    return targets, tuple(str(number) for number in range(max(targets) + 1))


def _named_classes(
    images: list[_Member], shards: tuple[Path, ...]
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    names = [PurePosixPath(image.name).parent.name or shards[image.shard].stem for image in images]
    firsts: dict[int, str] = {}
    for image in images:
        first = firsts.setdefault(image.shard, image.name)
        if PurePosixPath(first).parent.parent != PurePosixPath(image.name).parent.parent:
            raise ValueError(
                f"expected one set of class folders in {shards[image.shard]}, got images at different depths "
                f"or below several folders, such as {first} and {image.name}; pack each set into a file of "
                f"its own"
            )
    class_names = tuple(sorted(set(names)))
    label_of = {name: label for label, name in enumerate(class_names)}
    return tuple(label_of[name] for name in names), class_names


def _find(pattern: str) -> tuple[Path, ...]:
    path = Path(pattern).expanduser()
    if path.is_dir():
        found = sorted(path.glob("*.tar"))
    elif (numbers := re.search(r"\{(\d+)\.\.(\d+)\}", path.name)) is not None:
        first, last = numbers.groups()
        names = [
            path.name.replace(numbers[0], str(number).zfill(len(first)))
            for number in range(int(first), int(last) + 1)
        ]
        found = [path.with_name(name) for name in names]
    elif path.is_file():
        found = [path]
    else:
        found = sorted(path.parent.glob(path.name))
    missing = next((shard for shard in found if not shard.is_file()), None)
    if missing is not None or not found:
        raise FileNotFoundError(f"expected tar files at {pattern}, but there is no {missing or 'such file'}")
    return tuple(found)


def _members(path: Path, shard: int) -> list[_Member]:
    try:
        with path.open("rb") as file:
            return list(_scan(file, shard, folder="", start=0))
    except tarfile.TarError as error:
        raise OSError(
            f"expected a whole, uncompressed tar file at {path}, but it cannot be listed ({error}); fetch it "
            "again, or unpack what was compressed"
        ) from None


def _scan(file: IO[bytes], shard: int, *, folder: str, start: int) -> Iterator[_Member]:
    """The images and labels in a tar file, those of tar files inside it under a folder of their name."""
    with tarfile.open(fileobj=file, mode="r:") as tar:
        yield from _scan_members(tar, shard, folder=folder, start=start)
        _check_end(file, tar.offset)


def _check_end(file: IO[bytes], offset: int) -> None:
    """That the listing stopped at the end: at a damaged header tarfile stops without a word."""
    file.seek(offset)
    while block := file.read(1 << 20):
        if any(block):
            raise tarfile.ReadError(f"something else than the end or a member {offset} bytes in")


def _scan_members(tar: tarfile.TarFile, shard: int, *, folder: str, start: int) -> Iterator[_Member]:
    while (info := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # a kilobyte each
        path = PurePosixPath(folder, info.name)
        if path.name.startswith("."):
            continue
        if (info.islnk() or info.issym()) and is_image(info.name):
            raise tarfile.ReadError(f"the image {info.name} is a link to {info.linkname}")
        if not info.isfile():
            continue
        suffix = _key_and_suffix(info.name)[1]
        offset = start + info.offset_data
        if is_image(info.name):
            yield _Member(shard, str(path), offset, info.size)
        elif suffix in LABEL_SUFFIXES and not folder:
            yield _Member(shard, str(path), offset, info.size, _label(_content(tar, info), suffix))
        elif path.suffix == ".tar":
            inner = tar.extractfile(info)
            assert inner is not None  # a regular file has content
            yield from _scan(inner, shard, folder=str(path.with_suffix("")), start=offset)


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(info)
    assert file is not None  # a regular file has content
    return file.read()


def _label(content: bytes, suffix: str) -> int:
    """The class that a label file tells; UNREADABLE if it tells none."""
    try:
        value = int(content) if suffix == "cls" else json.loads(content)["label"]
    except (ValueError, KeyError, TypeError):
        return UNREADABLE
    return value if type(value) is int and 0 <= value < MOST_CLASSES else UNREADABLE


def _key_and_suffix(name: str) -> tuple[str, str]:
    folder, slash, base = name.rpartition("/")
    key, _, suffix = base.partition(".")
    return f"{folder}{slash}{key}", suffix.lower()
