"""Random numbers of a training step that follow from (seed, step, rank): nothing of them has to be saved."""

import random

import numpy as np
import torch

from tapadl.data.random_state import seeds_of


def reseed(seed: int, step: int, rank: int) -> None:
    """Seed `random`, numpy and torch on all devices, at the beginning of an optimizer step.

    What the step draws afterwards in this process (dropout, drop path, mixup, all its micro-batches) then
    follows from the three numbers, whether the run came here without a break or begins here.

    Args:
        seed: Of the training run.
        step: Optimizer steps done before.
        rank: Of this process, so that processes draw different numbers.

    Example:
        >>> reseed(0, 100, 0)
        >>> first = torch.rand(3)
        >>> reseed(0, 100, 0)
        >>> torch.equal(torch.rand(3), first)
        True
    """
    for_python, for_numpy, for_torch = seeds_of("step", seed, step, rank)
    random.seed(for_python)
    np.random.seed(for_numpy)  # noqa: NPY002 - timm's mixup draws from this one
    if torch.accelerator.is_available():
        torch.manual_seed(for_torch)
    else:  # manual_seed formats stack traces for devices that are not there, a fifth of a millisecond a step
        torch.default_generator.manual_seed(for_torch)
