"""A subset of Fashion-MNIST that comes with the package."""

import lzma
from importlib.resources import files

from tapadl.data.fashion_mnist import (
    CLASS_NAMES,
    VALIDATION_FROM,
    ClassificationData,
    LabelledImages,
    take_per_class,
)
from tapadl.data.idx import format_idx, parse_idx

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
