"""Random numbers of training that depend on (seed, epoch, index) and on nothing else."""

import hashlib

import numpy as np
import numpy.typing as npt
import torch

_GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def epoch_order(num_samples: int, *, seed: int, epoch: int) -> torch.Tensor:
    """The order in which an epoch shows its samples: a permutation (num_samples,), int64.

    Example:
        >>> sorted(epoch_order(5, seed=0, epoch=1).tolist())
        [0, 1, 2, 3, 4]
    """
    generator = torch.Generator().manual_seed(_key("order", seed, epoch))
    return torch.randperm(num_samples, generator=generator)


def uniform(indices: torch.Tensor, *, seed: int, epoch: int, draws: int) -> torch.Tensor:
    """Uniform numbers in [0, 1) for every sample, whatever batch or process it is in.

    The SplitMix64 generator, jumped to the place of each sample.

    Args:
        indices: (N,), int64: which samples of the data set.
        seed: Of the training run.
        epoch: From 0.
        draws: Numbers for each sample.

    Returns:
        (N, draws), float32.

    Source:
        Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014.

    Example:
        >>> one = uniform(torch.tensor([7]), seed=0, epoch=2, draws=3)
        >>> torch.equal(uniform(torch.tensor([3, 7]), seed=0, epoch=2, draws=3)[1:], one)
        True
    """
    places = np.add.outer(indices.cpu().numpy() * draws, np.arange(1, draws + 1)).astype(np.uint64)
    bits: npt.NDArray[np.uint64] = places * _GOLDEN_GAMMA + np.uint64(_key("augmentation", seed, epoch))
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    bits = bits ^ (bits >> np.uint64(31))
    # 24 bits: all that float32 holds
    return torch.from_numpy((bits >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24))


def _key(purpose: str, seed: int, epoch: int) -> int:
    digest = hashlib.sha256(f"{purpose} {seed} {epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
