"""Classification of images that fit into one tensor: the training of the demo."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from tapadl.attach import AttentionDiversificationLoss
from tapadl.data.fashion_mnist import LabelledImages
from tapadl.training.augmentation import augment
from tapadl.training.config import AugmentationConfig, TrainingConfig
from tapadl.training.loop import FitResult, Step, fit


@dataclass(frozen=True)
class Normalisation:
    """Images in [0, 1] to what a model takes: (images - mean) / std.

    Args:
        mean: Of all values of the training images, in [0, 1].
        std: Their standard deviation.

    Example:
        >>> Normalisation.of(torch.tensor([0, 255], dtype=torch.uint8))
        Normalisation(mean=0.5, std=0.5)
    """

    mean: float
    std: float

    @classmethod
    def of(cls, images: torch.Tensor) -> "Normalisation":
        """Mean and standard deviation of uint8 images, rounded to four places."""
        values = images.double() / 255
        return cls(round(values.mean().item(), 4), round(values.std(correction=0).item(), 4))

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Images in [0, 1], normalised."""
        return (images - self.mean) / self.std


def train_classifier(
    model: nn.Module,
    data: LabelledImages,
    config: TrainingConfig,
    *,
    normalise: Normalisation,
    diversify: bool = False,
    augmentation: AugmentationConfig | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> FitResult:
    """Train a classifier in place: cross-entropy, and the attention diversification loss if asked for.

    Args:
        model: Images (B, C, H, W), float32, to logits (B, classes); trained on the device it is on.
        data: Training images.
        config: Steps, optimizer, losses, seed.
        normalise: What the model expects of its images.
        diversify: Add `config.adl_weight` times ADL.
        augmentation: How strong; None for the defaults.
        on_step: Called after every step.

    Returns:
        Steps, times and the loss curve.

    Raises:
        ValueError: If there are fewer images than a batch takes, or ADL finds no attention in the model.
        RuntimeError: If the loss is not finite.
    """
    device = next(model.parameters()).device
    strength = augmentation or AugmentationConfig()
    images, labels = data.images.to(device), data.labels.to(device)
    diversification = AttentionDiversificationLoss(model, tau=config.adl_tau) if diversify else None

    def load(indices: torch.Tensor, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        here = indices.to(device)
        batch = augment(images[here] / 255, indices, strength, seed=config.seed, epoch=epoch)
        return normalise(batch), labels[here]

    def loss(batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        value = F.cross_entropy(model(batch[0]), batch[1], label_smoothing=config.label_smoothing)
        return value if diversification is None else value + config.adl_weight * diversification()

    try:
        return fit(model, config, num_samples=len(data), load=load, loss=loss, on_step=on_step)
    finally:
        if diversification is not None:
            diversification.close()


def count_errors(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    normalise: Normalisation,
    batch_size: int = 100,
) -> int:
    """How many images a classifier gets wrong; the model is left in evaluation mode.

    Args:
        model: Images (B, C, H, W), float32, to logits (B, classes).
        images: (N, C, H, W), uint8.
        labels: (N,), int64.
        normalise: What the model expects of its images.
        batch_size: Images at a time.
    """
    device = next(model.parameters()).device
    model.eval()
    errors = 0
    with torch.inference_mode():
        for batch, expected in zip(images.split(batch_size), labels.split(batch_size), strict=True):
            logits = model(normalise(batch.to(device) / 255))
            errors += int((logits.argmax(dim=1) != expected.to(device)).sum())
    return errors
