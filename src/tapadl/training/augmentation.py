"""Augmentation of whole batches on the fly."""

import torch

from tapadl.training.config import AugmentationConfig
from tapadl.training.order import uniform


def augment(
    images: torch.Tensor, indices: torch.Tensor, config: AugmentationConfig, *, seed: int, epoch: int
) -> torch.Tensor:
    """Flip, brighten and stretch the contrast of images, each by its own draws.

    Args:
        images: (N, C, H, W), floating, in [0, 1].
        indices: (N,), int64: their places in the data set; what is drawn follows from (seed, epoch, index).
        config: How strong.
        seed: Of the training run.
        epoch: From 0.

    Returns:
        New images, clamped to [0, 1].

    Example:
        >>> images = torch.rand(2, 1, 4, 4)
        >>> off = AugmentationConfig(flip=0, brightness=0, contrast=0)
        >>> torch.allclose(augment(images, torch.tensor([0, 1]), off, seed=0, epoch=0), images)
        True
    """
    draws = uniform(indices, seed=seed, epoch=epoch, draws=3).to(images)[..., None, None, None]
    flip, brightness, contrast = draws.unbind(1)
    images = torch.where(flip < config.flip, images.flip(-1), images)
    images = images * (1 + config.brightness * (2 * brightness - 1))
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return ((images - mean) * (1 + config.contrast * (2 * contrast - 1)) + mean).clamp(0, 1)
