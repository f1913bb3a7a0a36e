"""Attacks: images near the given ones on which a classifier is wrong.

Images are in 0..1 and a model is a function of them, normalisation included; its parameters collect no
gradients. An image's result depends on its own values, label and index. Only the last bits of a gradient,
which a library may compute differently in batches of another size, are out of reach.
"""

from collections.abc import Sequence

import torch

from tapadl.corruptions.random import Draws
from tapadl.evaluation.autoattack import autoattack
from tapadl.evaluation.ball import Norm, ball_around
from tapadl.evaluation.objective import Model, attacking, checked_indices, gradient_of, judge

__all__ = ["autoattack", "fgsm", "pgd"]


def fgsm(
    model: Model, images: torch.Tensor, labels: torch.Tensor, *, eps: float, norm: Norm = "linf"
) -> torch.Tensor:
    """One step of length eps along which the cross-entropy grows most (fast gradient sign method).

    Args:
        model: (B, C, H, W) images in 0..1 -> (B, classes) logits, in evaluation mode.
        images: (B, C, H, W), float32, in 0..1.
        labels: (B,), int64.
        eps: Radius on the scale of 0..1, such as 8 / 255.
        norm: `"linf"` (the sign of the gradient) or `"l2"` (the gradient at length eps).

    Returns:
        Images at most `eps` away, in 0..1.

    Raises:
        ValueError: If an argument is none of these, or the model's logits are not finite.

    Source:
        Goodfellow, Shlens, Szegedy, "Explaining and Harnessing Adversarial Examples", arXiv:1412.6572.

    Example:
        >>> weights = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
        >>> images = torch.full((1, 1, 1, 2), 0.5)
        >>> attacked = fgsm(lambda x: x.flatten(1) @ weights, images, torch.tensor([0]), eps=0.25)
        >>> attacked.flatten().tolist()
        [0.25, 0.75]
    """
    with attacking(model, images, labels) as (images, labels):
        ball = ball_around(images, eps, norm)
        start = images.clone().requires_grad_()
        losses, _ = judge(model, start, labels)
        return ball.project(images + eps * ball.steepest(gradient_of(losses, start)))


def pgd(
    model: Model,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    eps: float,
    step_size: float | None = None,
    steps: int = 20,
    norm: Norm = "linf",
    random_start: bool = True,
    seed: int = 0,
    indices: Sequence[int] | None = None,
) -> torch.Tensor:
    """Steps of gradient ascent on the cross-entropy, each projected back (projected gradient descent).

    Of the images on the way, the start included, the best is kept: one that is classified wrongly before
    one that is not, and then the one with the larger loss. Without a random start it is never weaker than
    no attack.

    Args:
        model: As for `fgsm`.
        images: (B, C, H, W), float32, in 0..1.
        labels: (B,), int64.
        eps: Radius on the scale of 0..1.
        step_size: Length of a step; None for 2.5 eps / steps.
        steps: How many; at least 1.
        norm: `"linf"` or `"l2"`.
        random_start: Begin anywhere in the ball, drawn from (seed, index), not at the image.
        seed: Of the random starts.
        indices: Positions of the images in their data set; None for 0, 1, ...

    Returns:
        Images at most `eps` away, in 0..1.

    Raises:
        ValueError: If an argument is none of these, or the model's logits are not finite.

    Source:
        Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", arXiv:1706.06083.

    Example:
        >>> weights = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
        >>> images = torch.full((1, 1, 1, 2), 0.5)
        >>> attacked = pgd(lambda x: x.flatten(1) @ weights, images, torch.tensor([0]), eps=0.25, steps=3)
        >>> attacked.flatten().tolist()
        [0.25, 0.75]
    """
    if steps < 1 or (step_size is not None and not 0 <= step_size < float("inf")):
        raise ValueError(f"expected steps from 1 and a step_size from 0, got {steps} and {step_size}")
    with attacking(model, images, labels) as (images, labels):
        ball = ball_around(images, eps, norm)
        length = 2.5 * eps / steps if step_size is None else step_size
        draws = Draws(seed, checked_indices(indices, len(images)), "pgd", 0)
        now = ball.draw(draws) if random_start else images.clone()
        best = now.clone()
        best_losses = torch.full(labels.shape, -torch.inf, device=labels.device)
        best_wrong = torch.zeros_like(labels, dtype=torch.bool)
        for step in range(steps + 1):
            losses, wrong = judge(model, now.requires_grad_(), labels)
            better = (wrong & ~best_wrong) | ((wrong == best_wrong) & (losses > best_losses))
            best = torch.where(better[:, None, None, None], now.detach(), best)
            best_losses = torch.where(better, losses.detach(), best_losses)
            best_wrong = best_wrong | wrong
            if step < steps:
                ascent = length * ball.steepest(gradient_of(losses, now))
                now = ball.project(now.detach() + ascent)
        return best
