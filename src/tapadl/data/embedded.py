"""A subset of Fashion-MNIST that comes with the package."""

import hashlib
import lzma
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files

import numpy as np
import torch
from PIL import Image

from tapadl.data.fashion_mnist import (
    CLASS_NAMES,
    VALIDATION_FROM,
    ClassificationData,
    LabelledImages,
    take_per_class,
)
from tapadl.data.idx import format_idx, parse_idx
from tapadl.data.subset import balanced_subset

FILE_NAME = "subset.idx.xz"
TRAIN_PER_CLASS = 2_000
VALIDATION_PER_CLASS = 200
TEST_PER_CLASS = 400

# Written out, so that the file does not change with a later liblzma's idea of preset 9.
_FILTERS = [
    {
        "id": lzma.FILTER_LZMA2,
        "dict_size": 1 << 26,
        "lc": 3,
        "lp": 0,
        "pb": 2,
        "mode": lzma.MODE_NORMAL,
        "nice_len": 273,
        "mf": lzma.MF_BT4,
        "depth": 512,
    }
]


@dataclass(frozen=True, eq=False)
class EmbeddedImages:
    """Images in memory, one class each, with the interface of `LabelledFiles`.

    Args:
        pixels: (N, 1, H, W), uint8.
        labels: The class of each image, an index into `class_names`.
        class_names: One for each class; class i is output i of a model.
        subset_of: Of a subset, the position of each image in the whole set; None for the whole.

    Example:
        >>> images = EmbeddedImages.load()
        >>> len(images), images.image(0).size, images.image(0).mode, len(images.subset(100))
        (4000, (28, 28), 'L', 100)
    """

    pixels: torch.Tensor = field(repr=False)
    labels: tuple[int, ...] = field(repr=False)
    class_names: tuple[str, ...] = field(repr=False)
    subset_of: tuple[int, ...] | None = field(default=None, repr=False)
    outputs: None = field(default=None, init=False, repr=False)

    @classmethod
    def load(cls) -> "EmbeddedImages":
        """The 4,000 test images that come with the package.

        Raises:
            FileNotFoundError: If the installed package lacks its data file.
            ValueError: If the file is damaged.
        """
        data = load_embedded()
        return cls(data.test.images, tuple(data.test.labels.tolist()), data.class_names)

    @property
    def positions(self) -> Sequence[int]:
        """The position of each image in the whole set: what its random draws depend on."""
        return range(len(self)) if self.subset_of is None else self.subset_of

    def __len__(self) -> int:
        return len(self.pixels)

    def image(self, index: int) -> Image.Image:
        """One image, gray."""
        return Image.fromarray(self.pixels[index, 0].numpy())

    def location(self, index: int) -> str:
        """What to call one image."""
        return f"built-in image {self.positions[index]}"

    def subset(self, count: int) -> "EmbeddedImages":
        """`count` of the images, as many of each class; the same ones everywhere (`balanced_subset`).

        Raises:
            ValueError: If `count` is no multiple of the number of classes or a class has too few images.
        """
        chosen = balanced_subset(self.labels, self.class_names, count)
        return EmbeddedImages(
            self.pixels[chosen],
            tuple(self.labels[index] for index in chosen),
            self.class_names,
            subset_of=tuple(self.positions[index] for index in chosen),
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of shape, pixels and labels."""
        digest = hashlib.sha256(f"{tuple(self.pixels.shape)}\0".encode())
        digest.update(self.pixels.numpy().tobytes())
        digest.update(np.array(self.labels, dtype="<i4").tobytes())
        return digest.hexdigest()


def load_embedded() -> ClassificationData:
    """20,000 training, 2,000 validation and 4,000 test images of Fashion-MNIST, the classes balanced.

    Training and validation images come from the original training file, test images from the original test
    file; `select_subset` is the rule. Reading takes about a second.

    Returns:
        The three parts: images (N, 1, 28, 28), uint8, and labels (N,), int64.

    Raises:
        FileNotFoundError: If the installed package lacks its data file.
        ValueError: If the file is damaged.

    Source:
        Xiao, Rasul, Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
        Algorithms", arXiv:1708.07747; MIT licence, beside the file.

    Example:
        >>> data = load_embedded()
        >>> data.train.images.shape, data.class_names[0]
        (torch.Size([20000, 1, 28, 28]), 'T-shirt/top')
    """
    location = files("tapadl.data") / "fashion_mnist_subset" / FILE_NAME
    try:
        content = location.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"expected the built-in images at {location}; install tapadl again") from None
    return unpack(content, source=str(location))


def select_subset(training: LabelledImages, test: LabelledImages) -> ClassificationData:
    """The embedded subset, out of the original training and test images.

    By rank within a class in the original file: training images 0 to 1,999 for training, 5,500 to 5,699 for
    validation (inside the validation part of the full set), test images 0 to 399 for the test.

    Raises:
        ValueError: If a class has too few images.
    """
    return ClassificationData(
        name="Fashion-MNIST subset",
        class_names=CLASS_NAMES,
        train=take_per_class(training, 0, TRAIN_PER_CLASS),
        validation=take_per_class(training, VALIDATION_FROM, VALIDATION_FROM + VALIDATION_PER_CLASS),
        test=take_per_class(test, 0, TEST_PER_CLASS),
    )


def pack(data: ClassificationData) -> bytes:
    """The file for a subset: images and labels of the three parts as idx arrays in one xz stream."""
    parts = (data.train, data.validation, data.test)
    content = b"".join(format_idx(part.images) + format_idx(part.labels.byte()) for part in parts)
    return lzma.compress(content, format=lzma.FORMAT_XZ, check=lzma.CHECK_SHA256, filters=_FILTERS)


def unpack(content: bytes, *, source: str) -> ClassificationData:
    """The subset in the bytes of a file that `pack` made.

    Raises:
        ValueError: If the bytes are damaged; the message names `source`.
    """
    try:
        arrays = parse_idx(lzma.decompress(content, format=lzma.FORMAT_XZ), source=source, count=6)
    except lzma.LZMAError as error:
        raise ValueError(
            f"expected the built-in images in {source}, but the file is damaged ({error}); "
            "install tapadl again"
        ) from None
    train, validation, test = (
        LabelledImages(images, labels.long())
        for images, labels in zip(arrays[::2], arrays[1::2], strict=True)
    )
    return ClassificationData("Fashion-MNIST subset", CLASS_NAMES, train, validation, test)
