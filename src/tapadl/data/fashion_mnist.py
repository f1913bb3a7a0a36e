"""Fashion-MNIST from its four original files, split by a fixed rule."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from tapadl.data.idx import read_idx

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
TRAINING_IMAGES = "train-images-idx3-ubyte.gz"
TRAINING_LABELS = "train-labels-idx1-ubyte.gz"
TEST_IMAGES = "t10k-images-idx3-ubyte.gz"
TEST_LABELS = "t10k-labels-idx1-ubyte.gz"

# Of the 6,000 training images of a class, in the order of the file, those from here on are for validation.
# The embedded subset follows the same line, so its parts lie inside the parts of the full set.
VALIDATION_FROM = 5_500
_IMAGES_PER_CLASS = 6_000


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images and their classes.

    Args:
        images: (N, C, H, W), uint8.
        labels: (N,), int64, indices of classes.
    """

    images: torch.Tensor
    labels: torch.Tensor

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != torch.uint8:
            raise ValueError(
                "expected images of shape (N, C, H, W) and dtype uint8, "
                f"got {tuple(self.images.shape)} and {self.images.dtype}"
            )
        if self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"expected one label for each of {len(self.images)} images, "
                f"got labels of shape {tuple(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.images)

    def first(self, count: int) -> "LabelledImages":
        """The first `count` images; all of them where there are fewer."""
        return LabelledImages(self.images[:count], self.labels[:count])


@dataclass(frozen=True, eq=False)
class ClassificationData:
    """A data set for image classification in three disjoint parts.

    Args:
        name: What it is called in results.
        class_names: One for each class, in the order of the labels.
        train: What models learn from.
        validation: What settings are chosen on.
        test: What is measured once, at the end.
    """

    name: str
    class_names: tuple[str, ...]
    train: LabelledImages
    validation: LabelledImages
    test: LabelledImages


def load_full(root: str | Path, *, download: bool = False) -> ClassificationData:
    """Fashion-MNIST: 55,000 training, 5,000 validation and 10,000 test images of 28 x 28 pixels.

    The first 5,500 images of every class in the training file are for training, the other 500 for validation.

    Args:
        root: The folder of the four original files (`train-images-idx3-ubyte.gz` and so on), or one in which
            torchvision has put them (`root/FashionMNIST/raw`).
        download: Let torchvision fetch the files, checked by hash, into `root` where they are missing.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged, cut short or not Fashion-MNIST.
        RuntimeError: If the download fails.

    Source:
        Xiao, Rasul, Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
        Algorithms", arXiv:1708.07747.
    """
    folder = _find_originals(Path(root), download=download)
    training = read_labelled(folder, TRAINING_IMAGES, TRAINING_LABELS)
    test = read_labelled(folder, TEST_IMAGES, TEST_LABELS)
    for part, labels, expected in (("training", training.labels, 60_000), ("test", test.labels, 10_000)):
        if len(labels) != expected:
            raise ValueError(
                f"expected the {expected:,} {part} images of Fashion-MNIST in {folder}, got {len(labels):,}"
            )
    return ClassificationData(
        name="Fashion-MNIST",
        class_names=CLASS_NAMES,
        train=take_per_class(training, 0, VALIDATION_FROM),
        validation=take_per_class(training, VALIDATION_FROM, _IMAGES_PER_CLASS),
        test=test,
    )


def _find_originals(root: Path, *, download: bool) -> Path:
    below = root / "FashionMNIST" / "raw"
    if download and not (root / TRAINING_IMAGES).exists():
        _torchvision_download(root)
    return below if (below / TRAINING_IMAGES).exists() else root


def _torchvision_download(root: Path) -> None:
    from torchvision.datasets import FashionMNIST

    fetch: Callable[..., object] = FashionMNIST
    fetch(root, download=True)


def read_labelled(folder: Path, images_name: str, labels_name: str) -> LabelledImages:
    """Images (N, 1, 28, 28) and labels from a pair of original files in `folder`.

    Raises:
        FileNotFoundError: If one of the two is missing.
        ValueError: If a file is damaged or the two do not fit one another.
    """
    images = read_idx(folder / images_name)
    labels = read_idx(folder / labels_name)
    if images.shape[1:] != (28, 28):
        raise ValueError(
            f"expected images of 28 x 28 pixels in {folder / images_name}, "
            f"got an array of shape {tuple(images.shape)}"
        )
    if labels.ndim != 1 or len(labels) != len(images) or int(labels.max()) >= len(CLASS_NAMES):
        raise ValueError(
            f"expected {len(images)} labels from 0 to {len(CLASS_NAMES) - 1} in {folder / labels_name}, "
            f"got an array of shape {tuple(labels.shape)} with largest value {int(labels.max())}"
        )
    return LabelledImages(images[:, None], labels.long())


def take_per_class(data: LabelledImages, start: int, stop: int) -> LabelledImages:
    """The images whose rank within their class, in the order of the data, is in [start, stop).

    Raises:
        ValueError: If a class has fewer than `stop` images.

    Example:
        >>> labels = torch.tensor([0, 1, 0, 1, 0, 1])
        >>> images = torch.arange(6, dtype=torch.uint8).reshape(6, 1, 1, 1)
        >>> take_per_class(LabelledImages(images, labels), 1, 3).images.flatten()
        tensor([2, 3, 4, 5], dtype=torch.uint8)
    """
    ranks = torch.empty_like(data.labels)
    for label in data.labels.unique():
        members = data.labels == label
        count = int(members.sum())
        if count < stop:
            raise ValueError(f"expected at least {stop} images of class {int(label)}, got {count}")
        ranks[members] = torch.arange(count)
    chosen = (ranks >= start) & (ranks < stop)
    return LabelledImages(data.images[chosen], data.labels[chosen])
