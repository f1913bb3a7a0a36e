"""The one call that makes perturbation sequences: it checks the arguments, picks the function and clips."""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from tapadl.corruptions.checks import check_images, check_seed, checked_indices
from tapadl.corruptions.perturbations import frames, geometry
from tapadl.corruptions.perturbations.geometry import cut_middle
from tapadl.corruptions.perturbations.sequence import FRAMES, PERTURBATIONS, sequence_constants
from tapadl.corruptions.random import Draws

_MOVING = ("translate", "rotate", "tilt", "scale", "shear", "zoom_blur")


@torch.no_grad()
def perturb(
    images: torch.Tensor,
    perturbation: str,
    *,
    seed: int,
    indices: torch.Tensor,
    difficulty: int = 1,
    crop_size: int | None = None,
    image_size: int | None = None,
) -> torch.Tensor:
    """Make the 31 frames of a perturbation sequence of each image.

    They follow the definitions and constants of ImageNet-P, but are not its stored frames: random draws are
    ours, and the stored ones went through 8 bits and a video codec. docs/perturbations.md lists what differs.

    The frames of an image depend on its pixels, `seed`, its index and the perturbation (and its difficulty)
    alone, to the last bit: not on the other images of the batch, the order or the number of workers.

    Args:
        images: (B, C, H, W), C 1 or 3, floating point in 0..1, any device.
        perturbation: A name in `PERTURBATIONS`.
        seed: 0 to 2**64 - 1.
        indices: (B,) integers, not negative: the position of each image in its data set.
        difficulty: Of a noise 1, 2 or 3, the strengths that are published apart; 1 of all others, whose
            difficulty lies in how far apart the frames are that a metric compares.
        crop_size: Side of the frames, cut from the middle of what moves. ImageNet-P moves the image whose
            shorter side is 256 pixels and cuts 224, so that little black comes in from outside. By default
            frames are as large as the images.
        image_size: Side length whose constants apply (see `sequence_constants`); the shorter side of the
            frames by default.

    Returns:
        (B, 31, C, H, W) float32 in 0..1 on the device of `images`: 19 MB an image of 224 pixels.

    Raises:
        ValueError: If an argument is not as described.

    Source: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
        Perturbations", ICLR 2019, arXiv:1903.12261, section 3, and the authors' generator scripts.

    Example:
        >>> images, indices = torch.rand(2, 3, 36, 36), torch.arange(2)
        >>> sequences = perturb(images, "translate", seed=0, indices=indices, crop_size=32)
        >>> sequences.shape
        torch.Size([2, 31, 3, 32, 32])
        >>> torch.equal(sequences[:, 15], images[:, :, 2:34, 2:34])
        True
    """
    check_images(images)
    positions = checked_indices(indices, len(images))
    check_seed(seed)
    size = _frame_size(images, crop_size)
    side = min(size) if image_size is None else image_size
    constants = sequence_constants(perturbation, side, difficulty=difficulty)
    images = images.to(torch.float32)
    arguments: list[Any]
    if perturbation in _MOVING:
        arguments = [images.contiguous(), size]
    else:
        arguments = [cut_middle(images, size).contiguous()]
    if PERTURBATIONS[perturbation].random:
        # 0 is no severity, so these numbers are not those of the corruption of the same name
        arguments.append(Draws(seed, positions, f"{perturbation} sequence {difficulty}", 0))
    sequences = images.new_empty(len(images), FRAMES, images.shape[1], *size)
    for number, frame in enumerate(_maker(perturbation)(*arguments, **constants.values)):
        sequences[:, number] = frame
    return sequences.clamp_(0, 1)


def _maker(perturbation: str) -> Callable[..., Iterator[torch.Tensor]]:
    module = frames if hasattr(frames, perturbation) else geometry
    maker: Callable[..., Iterator[torch.Tensor]] = getattr(module, perturbation)
    return maker


def _frame_size(images: torch.Tensor, crop_size: int | None) -> tuple[int, int]:
    height, width = images.shape[2:]
    if crop_size is None:
        return height, width
    shorter = min(height, width)
    if isinstance(crop_size, bool) or not isinstance(crop_size, int) or not 1 <= crop_size <= shorter:
        raise ValueError(f"expected crop_size to be an integer from 1 to {shorter} pixels, got {crop_size!r}")
    return crop_size, crop_size
