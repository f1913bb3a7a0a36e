"""Originals of Fashion-MNIST in its own format, with made-up images."""

import gzip
from pathlib import Path

import torch

from tapadl.data.fashion_mnist import TEST_IMAGES, TEST_LABELS, TRAINING_IMAGES, TRAINING_LABELS
from tapadl.data.idx import format_idx


def write_originals(folder: Path, *, train_per_class: int, test_per_class: int) -> None:
    """Four files; an image's first pixels spell its place in the file, so that it can be recognised."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(1)
    for per_class, images_name, labels_name in (
        (train_per_class, TRAINING_IMAGES, TRAINING_LABELS),
        (test_per_class, TEST_IMAGES, TEST_LABELS),
    ):
        count = 10 * per_class
        labels = (torch.arange(count) % 10).byte()
        labels = labels[torch.randperm(count, generator=generator)]
        images = torch.zeros(count, 28, 28, dtype=torch.uint8)
        place = torch.arange(count)
        images[:, 0, 0], images[:, 0, 1], images[:, 0, 2] = (
            labels,
            (place // 256).byte(),
            (place % 256).byte(),
        )
        (folder / images_name).write_bytes(gzip.compress(format_idx(images), compresslevel=1))
        (folder / labels_name).write_bytes(gzip.compress(format_idx(labels), compresslevel=1))
