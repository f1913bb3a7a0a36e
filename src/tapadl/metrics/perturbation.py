"""How steady predictions are along a perturbation sequence: flips and the distance of top-5 lists.

Frames are compared in pairs: frames `difficulty` apart, or, for noise, whose frames are no sequence in time,
each later frame with the first. Every value is a mean over pairs and sequences.
"""

from collections.abc import Mapping
from statistics import fmean

import torch

from tapadl.metrics.baseline import PerturbationBaseline
from tapadl.metrics.metric import Metric, check_class_indices

_TOP = 5
_DIFFERENT = "different ones; give each length a metric of its own"
_LARGEST_DISTANCE = 18  # the fifth class is first, all others are gone: 5 + 4 + 3 + 2 + 4


class _FramePairs(Metric):
    """Mean of integers over pairs of frames, each sequence with the same number of them."""

    def __init__(self, difficulty: int = 1, noise: bool = False) -> None:
        if difficulty < 1:
            raise ValueError(f"expected a difficulty of at least 1, got {difficulty}")
        super().__init__(4)  # sum of values, sequences, sum of their pairs, sum of their squared pairs
        self.difficulty = difficulty
        self.noise = noise

    def compute(self) -> float:
        """The mean over pairs and sequences.

        Raises:
            RuntimeError: If nothing was counted, or processes had sequences of different lengths.
        """
        counts = self._total()
        if not _have_one_length(counts):
            raise RuntimeError(f"expected sequences of one length in all processes, got {_DIFFERENT}")
        total, _, pairs, _ = counts.tolist()
        return float(total / pairs)

    def _pairs(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Earlier and later frames of all pairs, (sequences, pairs, ...)."""
        distance = 1 if self.noise else self.difficulty
        if frames.shape[1] <= distance:
            raise ValueError(f"expected sequences of more than {distance} frames, got {frames.shape[1]}")
        later = frames[:, distance:]
        earlier = frames[:, :1].expand_as(later) if self.noise else frames[:, :-distance]
        return earlier, later

    def _count(self, values: torch.Tensor) -> None:
        sequences, pairs = values.shape
        counts = torch.tensor([0, sequences, sequences * pairs, sequences * pairs**2], device=values.device)
        counts[0] = values.sum()
        if not _have_one_length(self._counts.to(counts.device) + counts):
            raise ValueError(f"expected sequences of one length in all batches, got {_DIFFERENT}")
        self.add_counts(counts)


class FlipProbability(_FramePairs):
    """Share of pairs of frames whose predicted class differs; `flip_probability` in results.

    Args:
        difficulty: How many frames apart the two of a pair are.
        noise: Compare each later frame with the first, whatever the difficulty.

    Raises:
        ValueError: If `difficulty` is below 1.

    Source: Hendrycks and Dietterich, ICLR 2019, section 4.2.

    Example:
        >>> metric = FlipProbability()
        >>> metric.update(torch.tensor([[7, 7, 3, 7, 7]]))
        >>> metric.compute()
        0.5
    """

    def update(self, predictions: torch.Tensor) -> None:
        """Count the flips of a batch of sequences.

        Args:
            predictions: (sequences, frames) predicted classes.

        Raises:
            ValueError: If it is anything else, or sequences are too short or of another length than before.
            RuntimeError: After `sync`.
        """
        if predictions.ndim != 2:
            raise ValueError(
                f"expected predictions of shape (sequences, frames), got {tuple(predictions.shape)}; "
                "logits need argmax(dim=-1) first"
            )
        check_class_indices(predictions, "predictions")
        earlier, later = self._pairs(predictions)
        self._count(earlier != later)


class Top5Distance(_FramePairs):
    """Mean distance of the top-5 lists of a pair of frames; `t5d` in results.

    `sum over k = 0..4 of |k - min(s_k, 5)|`, where s_k is the rank in the later frame of the class at rank k
    in the earlier one: 0 for equal lists, 15 for lists without a common class, 18 at most.

    Args:
        difficulty: How many frames apart the two of a pair are.
        noise: Compare each later frame with the first, whatever the difficulty.

    Raises:
        ValueError: If `difficulty` is below 1.

    Source: Hendrycks and Dietterich, ICLR 2019, section 4.2.

    Example:
        >>> metric = Top5Distance()
        >>> metric.update(torch.tensor([[[0, 1, 2, 3, 4, 5], [1, 0, 2, 3, 4, 5]]]))
        >>> metric.compute()
        2.0
    """

    def update(self, ranks: torch.Tensor) -> None:
        """Count the distances of a batch of sequences.

        Args:
            ranks: (sequences, frames, classes) rank of each class, 0 for the most likely; see `class_ranks`.

        Raises:
            ValueError: If it is anything else, or sequences are too short or of another length than before.
            RuntimeError: After `sync`.
        """
        if ranks.ndim != 3 or ranks.shape[-1] < _TOP:
            raise ValueError(
                f"expected ranks of shape (sequences, frames, classes) with at least {_TOP} classes, "
                f"got {tuple(ranks.shape)}"
            )
        check_class_indices(ranks, "ranks", ranks.shape[-1])
        first_ranks, classes = ranks.topk(_TOP, dim=-1, largest=False, sorted=True)
        places = torch.arange(_TOP, device=ranks.device)
        if (first_ranks != places).any():
            raise ValueError(
                "expected ranks that count the classes of a frame from 0, each once; see class_ranks"
            )
        listed, _ = self._pairs(classes)
        _, later = self._pairs(ranks)
        moved = later.gather(-1, listed).clamp(max=_TOP) - places
        self._count(moved.abs().sum(dim=-1))


def class_ranks(logits: torch.Tensor) -> torch.Tensor:
    """Rank of each class, 0 for the most likely; of equal logits the lower class comes first.

    Args:
        logits: (..., classes), or probabilities.

    Returns:
        Ranks, int64, the same shape.

    Raises:
        ValueError: If a logit is NaN.

    Example:
        >>> class_ranks(torch.tensor([0.1, 0.7, 0.2]))
        tensor([2, 0, 1])
    """
    if logits.isnan().any():
        raise ValueError("expected logits that are numbers, got NaN")
    return logits.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)


def flip_probability(predictions: torch.Tensor, difficulty: int = 1, noise: bool = False) -> float:
    """Share of pairs of frames whose predicted class differs, as `FlipProbability` in one call.

    Args:
        predictions: (sequences, frames) predicted classes.
        difficulty: How many frames apart the two of a pair are.
        noise: Compare each later frame with the first, whatever the difficulty.

    Returns:
        The mean over sequences, 0..1.

    Raises:
        ValueError: If predictions or difficulty are anything else, or the sequences too short.
        RuntimeError: If there is no sequence.

    Source: Hendrycks and Dietterich, ICLR 2019, section 4.2.

    Example:
        >>> flip_probability(torch.tensor([[7, 7, 3, 7, 7]]), difficulty=2)
        0.666...
    """
    metric = FlipProbability(difficulty, noise)
    metric.update(predictions)
    return metric.compute()


def top5_distance(ranks: torch.Tensor, difficulty: int = 1, noise: bool = False) -> float:
    """Mean distance of the top-5 lists of pairs of frames, as `Top5Distance` in one call.

    Args:
        ranks: (sequences, frames, classes) rank of each class, 0 for the most likely; see `class_ranks`.
        difficulty: How many frames apart the two of a pair are.
        noise: Compare each later frame with the first, whatever the difficulty.

    Returns:
        The mean over sequences, 0..18.

    Raises:
        ValueError: If ranks or difficulty are anything else, or the sequences too short.
        RuntimeError: If there is no sequence.

    Source: Hendrycks and Dietterich, ICLR 2019, section 4.2.

    Example:
        >>> top5_distance(torch.tensor([[[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0]]]))
        13.0
    """
    metric = Top5Distance(difficulty, noise)
    metric.update(ranks)
    return metric.compute()


def mean_flip_rate(flip_probabilities: Mapping[str, float], baseline: PerturbationBaseline) -> float:
    """Mean over the baseline's perturbations of flip probability / the baseline's; `mfr` in results.

    Args:
        flip_probabilities: By perturbation, 0..1. Perturbations that the baseline lacks take no part.
        baseline: At the same difficulty; its name belongs beside the number.

    Returns:
        The mean; 1.0 is the 100 % of reports and the baseline's own.

    Raises:
        ValueError: If a perturbation is missing, a value is out of range, or the baseline never flips.

    Source: Hendrycks and Dietterich, ICLR 2019, section 4.2.

    Example:
        >>> baseline = PerturbationBaseline("mine", {"tilt": 0.2, "snow": 0.4}, {})
        >>> mean_flip_rate({"tilt": 0.1, "snow": 0.1}, baseline)
        0.375
    """
    return _mean_ratio(flip_probabilities, baseline.flip_probabilities, 1, "flip probability")


def mean_top5_distance(top5_distances: Mapping[str, float], baseline: PerturbationBaseline) -> float:
    """Mean over the baseline's perturbations of top-5 distance / the baseline's; `mt5d` in results.

    Args:
        top5_distances: By perturbation, 0..18. Perturbations that the baseline lacks take no part.
        baseline: At the same difficulty; its name belongs beside the number.

    Returns:
        The mean; 1.0 is the 100 % of reports and the baseline's own.

    Raises:
        ValueError: If a perturbation is missing, a value is out of range, or the baseline's is 0.

    Source: Hendrycks and Dietterich, ICLR 2019, section 4.2.

    Example:
        >>> baseline = PerturbationBaseline("mine", {}, {"tilt": 2.0, "snow": 8.0})
        >>> mean_top5_distance({"tilt": 1.0, "snow": 2.0}, baseline)
        0.375
    """
    return _mean_ratio(top5_distances, baseline.top5_distances, _LARGEST_DISTANCE, "top-5 distance")


def _mean_ratio(values: Mapping[str, float], baseline: Mapping[str, float], most: int, what: str) -> float:
    if not baseline:
        raise ValueError(f"expected a baseline with the {what} of at least one perturbation, got none")
    missing = [name for name in baseline if name not in values]
    if missing:
        raise ValueError(
            f"expected the {what} of all {len(baseline)} perturbations of the baseline, "
            f"got none for {', '.join(missing)}"
        )
    for name, reference in baseline.items():
        if not 0 <= values[name] <= most:
            raise ValueError(f"expected the {what} of {name} in 0..{most}, got {values[name]}")
        if not 0 < reference <= most:
            raise ValueError(
                f"expected the baseline's {what} of {name} above 0, at most {most}, got {reference}"
            )
    return fmean(values[name] / reference for name, reference in baseline.items())


def _have_one_length(counts: torch.Tensor) -> bool:
    """The mean square of a number is its squared mean only where it is always the same."""
    _, sequences, pairs, squared_pairs = counts.tolist()
    return bool(sequences * squared_pairs == pairs**2)
