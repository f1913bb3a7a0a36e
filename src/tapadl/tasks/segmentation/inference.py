"""Logits of whole images, in one forward or window by window."""

from collections.abc import Callable
from itertools import product

import torch

from tapadl.models.segformer import resized

Model = Callable[[torch.Tensor], torch.Tensor]


def whole_logits(model: Model, images: torch.Tensor) -> torch.Tensor:
    """Logits (B, num_classes, H, W) of images (B, C, H, W); a model's smaller ones are enlarged."""
    return resized(model(images), images.shape[2:])


def sliding_logits(
    model: Model, images: torch.Tensor, crop_size: tuple[int, int], stride: tuple[int, int]
) -> torch.Tensor:
    """Logits of windows that cover the images, averaged where windows overlap.

    Windows begin every `stride` pixels; the last of each axis is moved back to end at the edge. An axis
    shorter than the window has one, of its own length. Call it under `torch.inference_mode()`.

    Args:
        model: Gives logits (B, num_classes, h, w) of images (B, C, H, W); smaller ones are enlarged to their
            window.
        images: (B, C, H, W) of any size.
        crop_size: (rows, cols) of a window in pixels; the paper's is (1024, 1024).
        stride: (rows, cols) from window to window, at most `crop_size`; the paper's is (768, 768).

    Returns:
        Logits (B, num_classes, H, W), in at least float32.

    Raises:
        ValueError: If the stride is below 1, or above the window, which would leave pixels out.

    Source:
        The slide mode of MMSegmentation.

    Example:
        >>> images = torch.rand(1, 3, 50, 70)
        >>> torch.allclose(sliding_logits(lambda window: 2 * window, images, (32, 32), (24, 24)), 2 * images)
        True
    """
    if not all(1 <= step <= side for step, side in zip(stride, crop_size, strict=True)):
        raise ValueError(f"expected a stride from 1 to the window {crop_size}, got {stride}")
    total: torch.Tensor | None = None
    windows = images.new_zeros(1, 1, *images.shape[2:], dtype=torch.float32)
    for top, left in product(*map(window_starts, images.shape[2:], crop_size, stride)):
        rows, cols = slice(top, top + crop_size[0]), slice(left, left + crop_size[1])
        logits = whole_logits(model, images[:, :, rows, cols])
        if total is None:
            dtype = torch.promote_types(logits.dtype, torch.float32)
            total = logits.new_zeros(*logits.shape[:2], *images.shape[2:], dtype=dtype)
        total[:, :, rows, cols] += logits
        windows[:, :, rows, cols] += 1
    assert total is not None
    return total / windows


def window_starts(length: int, crop: int, stride: int) -> list[int]:
    """Where the windows of one axis begin.

    Example:
        >>> window_starts(2048, 1024, 768), window_starts(1024, 1024, 768), window_starts(700, 1024, 768)
        ([0, 768, 1024], [0], [0])
    """
    last = max(length - crop, 0)
    return [*range(0, last, stride), last]
