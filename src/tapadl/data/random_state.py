"""The three global generators that transforms draw from: seeded for one purpose, and left as they were."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seeds_of(purpose: str, *numbers: int) -> tuple[int, int, int]:
    """Seeds for `random` (64 bits), `numpy.random` (32) and torch (63) that follow from a purpose alone.

    Args:
        purpose: Its name: two purposes with the same numbers draw other things.
        numbers: What tells the draws apart, such as seed, epoch and index.

    Example:
        >>> seeds_of("item", 0, 1, 2)[0] == seeds_of("item", 0, 1, 3)[0]
        False
    """
    digest = hashlib.sha256(" ".join((purpose, *map(str, numbers))).encode()).digest()
    read = int.from_bytes
    return read(digest[:8], "little"), read(digest[8:12], "little"), read(digest[12:20], "little") >> 1


def seed_cpu_generators(purpose: str, *numbers: int) -> None:
    """Let `random`, `numpy.random` and torch on the CPU begin at the seeds of a purpose.

    Accelerators keep their state: transforms of single images do not draw from them.

    Args:
        purpose: As for `seeds_of`.
        numbers: As for `seeds_of`.
    """
    for_python, for_numpy, for_torch = seeds_of(purpose, *numbers)
    random.seed(for_python)
    np.random.seed(for_numpy)  # noqa: NPY002 - timm's transforms draw from this one
    torch.default_generator.manual_seed(for_torch)


@contextmanager
def kept_cpu_generators() -> Iterator[None]:
    """Leave the CPU generators of `random`, `numpy.random` and torch as they were before, errors or not.

    Example:
        >>> state = random.getstate()
        >>> with kept_cpu_generators():
        ...     seed_cpu_generators("item", 0, 1, 2)
        >>> random.getstate() == state
        True
    """
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.default_generator.set_state(states[2])
