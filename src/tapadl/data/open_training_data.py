"""Images to train on, by one word that says where they are."""

import hashlib
import importlib.util
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from tapadl.data.embedded import EmbeddedImages, load_embedded
from tapadl.data.encoded_images import EncodedImages
from tapadl.data.fashion_mnist import TRAINING_IMAGES, ClassificationData, load_full
from tapadl.data.imagenet import image_folder
from tapadl.data.labelled_files import LabelledFiles, list_folder
from tapadl.data.tar_shards import tar_images
from tapadl.data.training_set import Images

EMBEDDED = "embedded"
STREAMS = ("hfids", "tfds", "torch")  # other prefixes of timm

Split = Literal["train", "validation"]


def open_images(spec: str, *, split: Split = "train") -> LabelledFiles | EmbeddedImages | EncodedImages:
    """Labelled images, read one by one in any order.

    Args:
        spec: One of

            - a folder of class folders;
            - a tar file or a folder of them, with class folders inside or one tar file a class;
            - `wds/PATTERN`: webdataset shards, such as `wds/shards/train-{0000..1023}.tar`;
            - `hfds/NAME`: a data set of the Hugging Face Hub or a folder of one, by timm's reader, with the
              columns "image" and "label"; `hfds/NAME#SPLIT` for a certain split, such as `#train[:90%]`;
            - a folder of the four original files of Fashion-MNIST;
            - `embedded`: the subset of Fashion-MNIST that comes with the package.
        split: Which part of `hfds`, Fashion-MNIST and `embedded`; elsewhere the word names the part itself.

    Raises:
        OSError: If there is nothing, or it cannot be read.
        ValueError: If a class is empty, there are no images, labels are missing, or the word is none of
            these.

    Example:
        >>> images = open_images("embedded")
        >>> len(images), images.class_names[0]
        (20000, 'T-shirt/top')
    """
    if spec == EMBEDDED:
        return _part(load_embedded(), split)
    prefix, _, rest = spec.partition("/")
    if prefix == "wds":
        return tar_images(rest)
    if prefix == "hfds":
        return _hugging_face(rest, split)
    if prefix in STREAMS:
        raise ValueError(
            f"expected images that can be read in any order (a folder, a tar file, wds/, hfds/ or "
            f"{EMBEDDED!r}), got {spec!r}; give a folder of this name as ./{spec}"
        )
    path = Path(spec).expanduser()
    if path.suffix == ".tar" or (path.is_dir() and _holds_tar_files(path)):
        return tar_images(spec)
    if (path / TRAINING_IMAGES).is_file():
        return _part(load_full(path), split)
    return image_folder(path)


def _part(data: ClassificationData, split: Split) -> EmbeddedImages:
    part = data.train if split == "train" else data.validation
    return EmbeddedImages(part.images, tuple(part.labels.tolist()), data.class_names)


def open_training_images(spec: str, extra: Sequence[str] = ()) -> Images:
    """The images to train on, with further ones of the same classes behind them.

    Args:
        spec: As for `open_images`.
        extra: Further places, such as folders of transformed copies (DeepAugment).

    Raises:
        OSError: As `open_images`.
        ValueError: As `open_images`; or if the classes differ.
    """
    first = open_images(spec)
    others = [open_images(place) for place in extra]
    for place, other in zip(extra, others, strict=True):
        check_same_classes(first, other, names=(spec, place))
    return JoinedImages((first, *others)) if others else first


def check_same_classes(first: Images, second: Images, *, names: tuple[str, str]) -> None:
    """That labels mean the same in both.

    Of classes that are known by number only (webdataset shards), the number must not be larger than there
    are names; which name each number means cannot be checked.

    Args:
        first: Images.
        second: Other images.
        names: What to call them.

    Raises:
        ValueError: If a class is in one only, or their order differs.
    """
    ours, theirs = first.class_names, second.class_names
    if ours == theirs:
        return
    if _are_numbers(theirs) and (_are_numbers(ours) or not any(name.isdecimal() for name in ours)):
        if len(theirs) <= len(ours):
            return
    elif _are_numbers(ours) and len(ours) == len(theirs) and not any(name.isdecimal() for name in theirs):
        return
    known, found = set(ours), set(theirs)
    if known == found:
        difference = "the same names in another order"
    else:
        missing, unknown = sorted(known - found), sorted(found - known)
        difference = ", ".join(
            f"{len(group)} {word} (such as {group[0]!r})"
            for group, word in ((missing, "missing"), (unknown, "unknown"))
            if group
        )
    raise ValueError(
        f"expected the {len(ours)} classes of {names[0]} in {names[1]} too, got {len(theirs)}: {difference}"
    )


@dataclass(frozen=True)
class JoinedImages:
    """Several sets with the same classes, one behind the other.

    Args:
        parts: The sets.
    """

    parts: tuple[Images, ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        """One for each class."""
        return self.parts[0].class_names

    @cached_property
    def labels(self) -> tuple[int, ...]:
        """The class of each image."""
        return tuple(label for part in self.parts for label in part.labels)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the fingerprints of the parts."""
        return hashlib.sha256("\0".join(part.fingerprint for part in self.parts).encode()).hexdigest()

    @cached_property
    def _ends(self) -> tuple[int, ...]:
        return tuple(accumulate(len(part) for part in self.parts))

    def __len__(self) -> int:
        return self._ends[-1]

    def image(self, index: int) -> Image.Image:
        """One image, decoded.

        Raises:
            OSError: If it cannot be read.
        """
        part, place = self._find(index)
        return part.image(place)

    def location(self, index: int) -> str:
        """What to call one image."""
        part, place = self._find(index)
        return part.location(place)

    def _find(self, index: int) -> tuple[Images, int]:
        number = bisect_right(self._ends, index)
        return self.parts[number], index - (self._ends[number - 1] if number else 0)


@dataclass(frozen=True)
class _TimmSource:
    """The bytes that a map-style reader of timm finds."""

    reader: Any = field(repr=False)
    name: str

    @property
    def fingerprint(self) -> str:
        return self.name  # the labels, which images add, tell most changes

    def read(self, position: int) -> bytes:
        file, *_ = self.reader[position]
        with file:
            content: bytes = file.read()
        return content

    def location(self, position: int) -> str:
        return f"{self.name}, row {position}"


def _hugging_face(name: str, split: Split) -> EncodedImages:
    name, _, chosen = name.partition("#")
    chosen = chosen or split
    if importlib.util.find_spec("datasets") is None:
        raise ValueError(f"hfds/{name} needs the package datasets: pip install datasets")
    from timm.data.readers.reader_factory import create_reader

    where = f"hfds/{name}, split {chosen!r}"
    try:
        reader: Any = create_reader(f"hfds/{name}", split=chosen)
    except Exception as error:  # what the library raises is not documented
        kind = OSError if isinstance(error, OSError) else ValueError
        raise kind(f"expected images at {where}, got from datasets: {error}") from error
    labels = tuple(reader.dataset[reader.label_key][:])
    if not labels or not all(isinstance(label, int) and label >= 0 for label in labels):
        raise ValueError(f"expected a label from 0 on for every image of {where}, got {labels[:3]}, ...")
    by_label = {label: class_name for class_name, label in reader.class_to_idx.items()}
    class_names = tuple(by_label.get(label, str(label)) for label in range(max(*labels, *by_label) + 1))
    return EncodedImages(_TimmSource(reader, where), labels, class_names)


def _are_numbers(class_names: tuple[str, ...]) -> bool:
    return class_names == tuple(str(number) for number in range(len(class_names)))


def _holds_tar_files(folder: Path) -> bool:
    folders, files = list_folder(folder)
    return not folders and any(name.endswith(".tar") for name in files)
