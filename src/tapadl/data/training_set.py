"""Labelled images as a loader reads them for training: an item follows from (seed, epoch, index) alone."""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

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


class TrainingSet(Dataset[tuple[torch.Tensor, int]]):
    """Images behind a random transform whose draws belong to (seed, epoch, index).

    The generators that transforms draw from (`random`, `numpy.random`, torch on the CPU) are seeded inside
    each item and restored after a batch. So an item is the same to the bit in any order, in any number of
    processes, prefetched or not, and the caller's generators do not move.

    Args:
        images: What to read.
        transform: From a decoded image to a tensor (C, H, W); it may draw from the three generators.
        seed: Of the training run.
        on_error: At an image that cannot be read, `"stop"` raises; `"skip"` takes the next readable one
            (after the last comes the first) with its label; the draws stay those of the place. `unreadable`
            tells.

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
        on_error: Literal["stop", "skip"] = "stop",
    ) -> None:
        if len(images) == 0:
            raise ValueError("expected images to train on, got none")
        if on_error not in ("stop", "skip"):
            raise ValueError(f"expected on_error 'stop' or 'skip', got {on_error!r}")
        self.images = images
        self.transform = transform
        self.seed = seed
        # in memory that the processes of a loader share, so that the first process hears what they met
        self._met = torch.zeros(len(images), dtype=torch.bool).share_memory_() if on_error == "skip" else None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: tuple[int, int]) -> tuple[torch.Tensor, int]:
        """One image as a certain epoch shows it.

        Args:
            place: (epoch, index of the image).

        Returns:
            The image (C, H, W) and its class.

        Raises:
            OSError: If the image cannot be read; under `"skip"`, if the 100 from it on cannot.
        """
        return self.__getitems__([place])[0]

    def __getitems__(self, places: Sequence[tuple[int, int]]) -> list[tuple[torch.Tensor, int]]:
        """Several images: what a loader asks for, so that the generators are kept once a batch.

        Args:
            places: (epoch, index of the image) of each.

        Returns:
            As `__getitem__`, of each.

        Raises:
            OSError: As `__getitem__`.
        """
        with kept_cpu_generators():
            return [self._item(epoch, index) for epoch, index in places]

    @property
    def unreadable(self) -> list[str]:
        """The paths of the images that were skipped, in any process of the loader, up to now."""
        if self._met is None:
            return []
        return [self.images.location(index) for index in self._met.nonzero()[:, 0].tolist()]

    def _item(self, epoch: int, index: int) -> tuple[torch.Tensor, int]:
        image, shown = self._read(index)
        seed_cpu_generators("item", self.seed, epoch, index)
        return self.transform(image), self.images.labels[shown]

    def _read(self, index: int) -> tuple[Image.Image, int]:
        """The image at a place or, where allowed, the next one that can be read; and which it is."""
        if self._met is None:
            return self.images.image(index), index
        for gap in range(min(LONGEST_GAP, len(self))):
            candidate = (index + gap) % len(self)
            try:
                return self.images.image(candidate), candidate
            except OSError as error:
                self._met[candidate] = True
                last = error
        raise OSError(
            f"expected unreadable images to be few, got {gap + 1} in a row "
            f"from {self.images.location(index)} on; the last: {last}"
        )
