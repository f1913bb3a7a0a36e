"""What attacks of ours maximise: the cross-entropy of a classifier at an image."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional as F

Model = Callable[[torch.Tensor], torch.Tensor]
"""(B, C, H, W) images in 0..1 -> (B, classes) logits."""


@contextmanager
def attacking(
    model: Model, images: torch.Tensor, labels: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Gradients of images, wherever it is called from: copies of images and labels that take part in them.

    Raises:
        ValueError: If there is not one label for each image, or the model is in training mode.
    """
    if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(
            f"expected one int64 label for each of {len(images)} images, "
            f"got {tuple(labels.shape)} of {labels.dtype}"
        )
    if isinstance(model, nn.Module) and any(module.training for module in model.modules()):
        raise ValueError("expected a model in evaluation mode, got one in training; call model.eval()")
    with torch.inference_mode(False), torch.enable_grad():
        yield images.detach().clone(), labels.clone()


def judge(model: Model, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of each image, (B,) float32 with its graph, and whether it is classified wrongly, (B,).

    Raises:
        ValueError: If there are no logits, they are not finite, or a label is none of their classes.
    """
    logits = model(images)
    if logits.ndim != 2 or len(logits) != len(images):
        raise ValueError(f"expected logits ({len(images)}, classes), got {tuple(logits.shape)}")
    if not bool(((labels >= 0) & (labels < logits.shape[1])).all()):
        raise ValueError(f"expected labels from 0 to {logits.shape[1] - 1}, as the model has outputs")
    if not bool(logits.isfinite().all()):
        raise ValueError("expected finite logits from the model under attack, got infinities or NaN")
    losses = F.cross_entropy(logits.float(), labels, reduction="none")
    return losses, logits.detach().argmax(dim=1) != labels


def gradient_of(losses: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """The gradient of each image's own loss; parameters collect none."""
    (gradient,) = torch.autograd.grad(losses.sum(), images)
    return gradient


def checked_indices(indices: Sequence[int] | None, count: int) -> Sequence[int]:
    """Positions of the images, counted from 0 where none are given.

    Raises:
        ValueError: If there is not one for each image.
    """
    if indices is None:
        return range(count)
    if len(indices) != count:
        raise ValueError(f"expected one index for each of {count} images, got {len(indices)}")
    return [int(index) for index in indices]
