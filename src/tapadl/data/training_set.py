"""Items as a loader reads them for training: each follows from (seed, epoch, index) alone."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Generic, Literal, Protocol, TypeVar

import torch
from PIL import Image
from torch.utils.data import Dataset

from tapadl.data.random_state import kept_cpu_generators, seed_cpu_generators

# So many unreadable images in a row are no bad luck: a disk is gone, or the folder holds something else.
LONGEST_GAP = 100


class Images(Protocol):
    """Labelled images that are read one by one; all that `open_images` opens are such."""

    @property
    def labels(self) -> Sequence[int]:
        """The class of each."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """One for each class."""

    @property
    def fingerprint(self) -> str:
        """Tells these from others."""

    def __len__(self) -> int: ...

    def image(self, index: int) -> Image.Image:
        """One image, decoded; OSError, naming it, if it cannot be read."""

    def location(self, index: int) -> str:
        """The path of one image, or what else to call it."""


OnError = Literal["stop", "skip"]
Found = TypeVar("Found")
Target = TypeVar("Target")


class RandomItems(Dataset[tuple[torch.Tensor, Target]], Generic[Found, Target]):
    """Items behind a random transform whose draws belong to (seed, epoch, index).

    The generators that transforms draw from (`random`, `numpy.random`, torch on the CPU) are seeded inside
    each item and restored after a batch. So an item is the same to the bit in any order, in any number of
    processes, prefetched or not, and the caller's generators do not move.

    Args:
        count: How many there are.
        seed: Of the training run.
        on_error: At a file that cannot be read, `"stop"` raises; `"skip"` takes the next readable one (after
            the last comes the first); the draws stay those of the place. `unreadable` tells.

    Raises:
        ValueError: If there are none, or `on_error` is neither.
    """

    def __init__(self, count: int, *, seed: int, on_error: OnError = "stop") -> None:
        if count == 0:
            raise ValueError("expected images to train on, got none")
        if on_error not in ("stop", "skip"):
            raise ValueError(f"expected on_error 'stop' or 'skip', got {on_error!r}")
        self.seed = seed
        self._count = count
        # in memory that the processes of a loader share, so that the first process hears what they met
        self._met = torch.zeros(count, dtype=torch.bool).share_memory_() if on_error == "skip" else None

    @abstractmethod
    def read(self, index: int) -> Found:
        """What lies at a place, decoded; OSError, naming it, if it cannot be read."""

    @abstractmethod
    def item(self, found: Found, index: int) -> tuple[torch.Tensor, Target]:
        """The item of what was read at a place; it may draw from the three generators."""

    @abstractmethod
    def location(self, index: int) -> str:
        """The path of what lies at a place, or what else to call it."""

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, place: tuple[int, int]) -> tuple[torch.Tensor, Target]:
        """One item as a certain epoch shows it.

        Args:
            place: (epoch, index).

        Returns:
            The image (C, H, W) and its target.

        Raises:
            OSError: If the file cannot be read; under `"skip"`, if the 100 from it on cannot.
        """
        return self.__getitems__([place])[0]

    def __getitems__(self, places: Sequence[tuple[int, int]]) -> list[tuple[torch.Tensor, Target]]:
        """Several items: what a loader asks for, so that the generators are kept once a batch.

        Args:
            places: (epoch, index) of each.

        Returns:
            As `__getitem__`, of each.

        Raises:
            OSError: As `__getitem__`.
        """
        with kept_cpu_generators():
            return [self._item(epoch, index) for epoch, index in places]

    @property
    def unreadable(self) -> list[str]:
        """The paths of what was skipped, in any process of the loader, up to now."""
        if self._met is None:
            return []
        return [self.location(index) for index in self._met.nonzero()[:, 0].tolist()]

    def _item(self, epoch: int, index: int) -> tuple[torch.Tensor, Target]:
        found, shown = self._read(index)
        seed_cpu_generators("item", self.seed, epoch, index)
        return self.item(found, shown)

    def _read(self, index: int) -> tuple[Found, int]:
        """What lies at a place or, where allowed, at the next one that can be read; and which it is."""
        if self._met is None:
            return self.read(index), index
        for gap in range(min(LONGEST_GAP, len(self))):
            candidate = (index + gap) % len(self)
            try:
                return self.read(candidate), candidate
            except OSError as error:
                self._met[candidate] = True
                last = error
        raise OSError(
            f"expected unreadable images to be few, got {gap + 1} in a row "
            f"from {self.location(index)} on; the last: {last}"
        )


class TrainingSet(RandomItems[Image.Image, int]):
    """Labelled images behind a random transform; see `RandomItems`. An item is an image and its class.

    Args:
        images: What to read.
        transform: From a decoded image to a tensor (C, H, W); it may draw from the generators of `random`,
            `numpy.random` and torch on the CPU.
        seed: Of the training run.
        on_error: As `RandomItems`; an image in the place of another has its own label.

    Raises:
        ValueError: If there are no images, or `on_error` is neither.

    Example:
        >>> from torchvision.transforms import v2
        >>> from tapadl.data.embedded import EmbeddedImages
        >>> transform = v2.Compose([v2.RandomCrop(24), v2.PILToTensor()])
        >>> training_set = TrainingSet(EmbeddedImages.load(), transform, seed=0)
        >>> pixels, label = training_set[2, 100]
        >>> pixels.shape, torch.equal(training_set[2, 100][0], pixels)
        (torch.Size([1, 24, 24]), True)
    """

    def __init__(
        self,
        images: Images,
        transform: Callable[[Image.Image], torch.Tensor],
        *,
        seed: int,
        on_error: OnError = "stop",
    ) -> None:
        super().__init__(len(images), seed=seed, on_error=on_error)
        self.images = images
        self.transform = transform

    def read(self, index: int) -> Image.Image:
        """An image, decoded."""
        return self.images.image(index)

    def item(self, found: Image.Image, index: int) -> tuple[torch.Tensor, int]:
        """The image, transformed, and its class."""
        return self.transform(found), self.images.labels[index]

    def location(self, index: int) -> str:
        """The path of an image."""
        return self.images.location(index)
