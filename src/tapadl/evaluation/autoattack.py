"""AutoAttack, by its authors' package: our conventions around it."""

import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from tapadl.corruptions.random import Draws
from tapadl.evaluation.ball import Norm, ball_around
from tapadl.evaluation.objective import Model, attacking, checked_indices, judge

NORMS = {"linf": "Linf", "l2": "L2"}
TARGETS = 9  # classes that the targeted attacks try, where there are as many


def autoattack(
    model: Model,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    eps: float,
    norm: Norm = "linf",
    seed: int = 0,
    indices: Sequence[int] | None = None,
    batch_size: int = 1,
) -> torch.Tensor:
    """The standard version of AutoAttack: APGD-CE, APGD-T, FAB-T and Square.

    The package draws for a whole batch, so an image does not depend on its neighbours only if it is attacked
    alone, as by default; larger batches are faster on a GPU.

    Args:
        model: (B, C, H, W) images in 0..1 -> (B, classes) logits of at least 4 classes, in evaluation mode.
        images: (B, C, H, W), float32, in 0..1.
        labels: (B,), int64.
        eps: Radius on the scale of 0..1, above 0.
        norm: `"linf"` or `"l2"`.
        seed: Of the draws.
        indices: Positions of the images in their data set; None for 0, 1, ...
        batch_size: Images attacked together.

    Returns:
        Images at most `eps` away, in 0..1: those given where no attack was found, or none was needed.

    Raises:
        ValueError: If an argument is none of these, the model answers at random, or the extra `adversarial`
            is not installed.

    Source:
        Croce, Hein, "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse
        Parameter-free Attacks", arXiv:2003.01690.
    """
    try:
        from pyautoattack import AutoAttack
    except ImportError:
        raise ValueError("AutoAttack needs the extra: pip install 'tapadl[adversarial]'") from None
    if batch_size < 1 or not eps > 0:
        raise ValueError(f"expected a batch_size from 1 and eps above 0, got {batch_size} and {eps}")
    with attacking(model, images, labels) as (images, labels), _left_as_it_was(images.device):
        ball_around(images, eps, norm)  # checks all images before the first is attacked
        streams = Draws(seed, checked_indices(indices, len(images)), "autoattack", 0).generators
        attacked = images.clone()
        for start in range(0, len(images), batch_size):
            part = slice(start, start + batch_size)
            attack = AutoAttack(
                _without_parameters(model),
                norm=NORMS[norm],
                eps=eps,
                seed=int(streams[start].integers(2**31)),
                device=images.device,
            )
            targets = _targets(model, images[part], labels[part])
            attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = targets
            attack.verbose = False
            found, _ = attack.run_standard_evaluation(images[part], labels[part], batch_size=batch_size)
            attacked[part] = ball_around(images[part], eps, norm).project(found)
        return attacked


def _targets(model: Model, images: torch.Tensor, labels: torch.Tensor) -> int:
    with torch.no_grad():
        judge(model, images, labels)
        classes = model(images).shape[1]
    if classes < 4:
        raise ValueError(f"expected at least 4 classes, which the losses of AutoAttack need, got {classes}")
    return min(TARGETS, classes - 1)


class _Isolated(torch.autograd.Function):
    """A model whose gradient ends at the images: FAB calls backward(), which would reach the parameters."""

    @staticmethod
    def forward(ctx: Any, images: torch.Tensor, model: Model) -> torch.Tensor:
        with torch.enable_grad():
            ctx.images = images.detach().requires_grad_()
            ctx.logits = model(ctx.images)
        logits: torch.Tensor = ctx.logits.detach()
        return logits

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return torch.autograd.grad(ctx.logits, ctx.images, gradients)[0], None


def _without_parameters(model: Model) -> Model:
    def logits(images: torch.Tensor) -> torch.Tensor:
        if not (torch.is_grad_enabled() and images.requires_grad):
            return model(images)
        isolated: torch.Tensor = _Isolated.apply(images, model)
        return isolated

    return logits


@contextmanager
def _left_as_it_was(device: torch.device) -> Iterator[None]:
    """The package seeds torch's generators, takes away the tracer of debuggers, and logs what matters."""
    logger, said = logging.getLogger("auto-attack"), _Said()
    tracer, propagate = sys.gettrace(), logger.propagate
    logger.addHandler(said)
    logger.propagate = False
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        logger.removeHandler(said)
        logger.propagate = propagate
        sys.settrace(tracer)


class _Said(logging.Handler):
    """What the package warns of: an error of ours, a warning, or noise in small batches."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if "randomized defense" in message:
            raise ValueError(
                "expected the same logits for the same images, got others, so AutoAttack cannot tell; "
                "put the model into evaluation mode"
            )
        if "Square Attack has decreased" not in message:
            warnings.warn(f"AutoAttack: {message}", stacklevel=2)
