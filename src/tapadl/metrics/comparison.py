"""Two models on the same images or seeds: how sure is a difference."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats

Values = Sequence[float] | npt.NDArray[np.generic] | torch.Tensor

# Resamples times values held at once: 40 MB.
_BATCH = 5_000_000


def bootstrap_interval(
    values: Values, *, confidence_level: float = 0.95, num_resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean: what it could have been with other images.

    Give it one value an image, with everything of that image in it: 1 or 0 for right or wrong, a mean over
    corruptions, or the difference between two models. Corrupted copies of an image are not independent, and
    as values of their own they would make the interval too narrow; so would a handful of seeds, whose values
    are better shown themselves.

    Args:
        values: (N,), at least two.
        confidence_level: Share of such intervals that hold the true mean, between 0 and 1.
        num_resamples: How often N values are drawn out of N.
        seed: Of the draws.

    Returns:
        Low and high end.

    Raises:
        ValueError: If there are fewer than two values, one is not finite, or the level is not in 0..1.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.

    Example:
        >>> low, high = bootstrap_interval([True] * 80 + [False] * 20)
        >>> round(low, 2), round(high, 2)
        (0.72, 0.88)
    """
    numbers = _numbers(values, "values")
    if len(numbers) < 2:
        raise ValueError(f"expected at least two values, got {len(numbers)}")
    if not 0 < confidence_level < 1:
        raise ValueError(f"expected a confidence_level between 0 and 1, got {confidence_level}")
    interval = stats.bootstrap(
        (numbers,),
        np.mean,
        n_resamples=num_resamples,
        batch=max(1, _BATCH // len(numbers)),
        confidence_level=confidence_level,
        method="percentile",
        rng=seed,
    ).confidence_interval
    return float(interval.low), float(interval.high)


def paired_test(first: Values, second: Values, *, num_resamples: int = 9999, seed: int = 0) -> float:
    """How often a mean difference as large would come by chance, were the two models alike: the p value.

    Were they alike, each difference could as well have had the other sign. The test flips signs: all ways
    where there are at most `num_resamples`, else so many random ones. Of right and wrong answers only the
    images on which the models disagree count, and the test is McNemar's exact one, for any number of images.
    It is two-sided. n pairs cannot give less than 2 / 2^n: 0.25 for three seeds, 0.0625 for five.

    Args:
        first: (N,) values of one model, such as right or wrong by image or the error by seed.
        second: (N,) the other's, on the same images or seeds, in the same order.
        num_resamples: Random sign flips at most.
        seed: Of the random sign flips.

    Returns:
        The p value, 0..1.

    Raises:
        ValueError: If the numbers of values differ, there is none, or one is not finite.

    Source: Fisher, "The Design of Experiments", 1935, section 21; McNemar, Psychometrika 12, 1947.

    Example:
        >>> paired_test([0.21, 0.22, 0.20], [0.24, 0.23, 0.25])
        0.25
    """
    numbers, others = _numbers(first, "first"), _numbers(second, "second")
    if len(numbers) != len(others) or len(numbers) == 0:
        raise ValueError(
            f"expected values of two models on the same images or seeds, got {len(numbers)} and {len(others)}"
        )
    differences = numbers - others
    differences = differences[differences != 0]
    if len(differences) < 2:
        return 1.0
    if np.all(np.abs(differences) == 1):
        return float(stats.binomtest(int(np.sum(differences > 0)), len(differences)).pvalue)
    if len(differences) < 64 and 2 ** len(differences) <= num_resamples:
        exact = stats.permutation_test(
            (differences,), np.mean, permutation_type="samples", n_resamples=num_resamples
        )
        return float(exact.pvalue)
    return _share_of_sign_flips(differences, num_resamples, seed)


def _share_of_sign_flips(differences: npt.NDArray[np.float64], num_resamples: int, seed: int) -> float:
    """Share of random sign flips whose sum is as far from zero; what is observed counts as one of them.

    As scipy's `permutation_test` gives, which takes a minute for 50,000 differences; this takes seconds.
    """
    draws = np.random.default_rng(seed)
    total, count = differences.sum(), len(differences)
    as_far = 1
    batch = max(1, _BATCH // count)
    for start in range(0, num_resamples, batch):
        rows = min(batch, num_resamples - start)
        bits = np.unpackbits(
            np.frombuffer(draws.bytes((rows * count + 7) // 8), np.uint8), count=rows * count
        )
        # keep the differences where a bit is 1, turn the others round: kept - (total - kept)
        sums = 2 * (bits.reshape(rows, count).astype(np.float64) @ differences) - total
        # equal sums differ in their last places
        as_far += int(np.sum(np.abs(sums) >= abs(total) - 1e-9 * np.abs(differences).sum()))
    return as_far / (num_resamples + 1)


def _numbers(values: Values, name: str) -> npt.NDArray[np.float64]:
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or not np.isfinite(numbers).all():
        raise ValueError(f"expected {name} as finite numbers of shape (N,), got shape {numbers.shape}")
    return numbers
