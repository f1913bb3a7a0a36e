"""Images with masks as a loader reads them for training: an item follows from (seed, epoch, index) alone."""

from collections.abc import Callable

import torch
from PIL import Image

from tapadl.data.segmentation.files import SegmentationFiles
from tapadl.data.segmentation.labels import Mask
from tapadl.data.training_set import OnError, RandomItems

Transform = Callable[[Image.Image, Mask], tuple[torch.Tensor, torch.Tensor]]


class SegmentationTrainingSet(RandomItems[tuple[Image.Image, Mask], torch.Tensor]):
    """Images and masks behind a random transform of both; see `RandomItems`.

    An item is what the transform gives: an image (C, H, W), float32, and the class of every pixel (H, W),
    int64.

    Args:
        files: What to read.
        transform: From a decoded image and its classes (H, W), uint8; it may draw from the generators of
            `random`, `numpy.random` and torch on the CPU.
        seed: Of the training run.
        on_error: As `RandomItems`; a mask that cannot be read counts as its image.

    Raises:
        ValueError: If there are no images, or no label files; or `on_error` is neither.
    """

    def __init__(
        self, files: SegmentationFiles, transform: Transform, *, seed: int, on_error: OnError = "stop"
    ) -> None:
        if not files.labelled:
            raise ValueError(f"expected label files to train on in {files.root}, got none")
        super().__init__(len(files), seed=seed, on_error=on_error)
        self.files = files
        self.transform = transform

    def read(self, index: int) -> tuple[Image.Image, Mask]:
        """An image and its mask."""
        return self.files.pair(index)

    def item(self, found: tuple[Image.Image, Mask], index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Both, transformed."""
        return self.transform(*found)

    def location(self, index: int) -> str:
        """The path of an image."""
        return self.files.location(index)
