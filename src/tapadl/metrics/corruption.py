"""How much corruptions hurt a classifier: corruption errors, relative to AlexNet's and as they are.

Errors are top-1 errors as fractions, 0..1, at severities 1 to 5:
`{"fog": [0.31, 0.35, 0.41, 0.44, 0.53], ...}`.
"""

import math
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

import torch

from tapadl.metrics.baseline import (
    NUM_SEVERITIES,
    Baseline,
    ErrorTable,
    SeverityErrors,
    alexnet_baseline,
    check_errors,
    check_fraction,
    find_baseline,
)
from tapadl.metrics.metric import Metric, predicted_classes

CLEAN = "clean"


def corruption_error(errors: SeverityErrors, baseline_errors: SeverityErrors) -> float:
    """Corruption error of one corruption: sum over severities of error / the same sum of the baseline.

    Args:
        errors: Top-1 errors at severities 1 to 5, 0..1.
        baseline_errors: The baseline's.

    Returns:
        The ratio; 1.0 is the 100 % of reports.

    Raises:
        ValueError: If an error is missing or no fraction 0..1, or the baseline makes none.

    Source: Hendrycks and Dietterich, ICLR 2019, section 4.1.

    Example:
        >>> corruption_error([0.1, 0.2, 0.2, 0.2, 0.3], [0.4, 0.4, 0.4, 0.4, 0.4])
        0.5
    """
    check_errors(baseline_errors, "the baseline", NUM_SEVERITIES)
    return _ratio(errors, baseline_errors, 0.0, 0.0, "the corruption")


def mean_corruption_error(
    errors: ErrorTable, baseline: str | Baseline | Mapping[str, Any] = "alexnet"
) -> float:
    """Mean of the corruption errors over the corruptions of the baseline; `mce` in results.

    Args:
        errors: Top-1 errors by corruption at severities 1 to 5, 0..1. Corruptions that the baseline lacks,
            such as the four for validation, take no part.
        baseline: "alexnet", a `Baseline`, or the content of a JSON file with its fields.

    Returns:
        The mean; 1.0 is the 100 % of reports and AlexNet's own.

    Raises:
        ValueError: If a corruption of the baseline or a severity is missing, an error is no fraction 0..1, or
            the baseline is none.

    Source: Hendrycks and Dietterich, ICLR 2019, section 4.1.

    Example:
        >>> mean_corruption_error(alexnet_baseline().errors)
        1.0
    """
    return _mean_ratio(errors, 0.0, find_baseline(baseline), 0.0)


def relative_mean_corruption_error(
    errors: ErrorTable, clean_error: float, baseline: str | Baseline | Mapping[str, Any] = "alexnet"
) -> float:
    """Mean over corruptions of how much is lost against clean images; `relative_mce` in results.

    For one corruption: sum over severities of (error - clean error) / the same sum of the baseline.

    Args:
        errors: Top-1 errors by corruption at severities 1 to 5, 0..1; as in `mean_corruption_error`.
        clean_error: Top-1 error on clean images, 0..1.
        baseline: As in `mean_corruption_error`.

    Returns:
        The mean; 1.0 is the 100 % of reports, 0.0 a model that corruptions do not hurt.

    Raises:
        ValueError: As in `mean_corruption_error`, or if a corruption does not hurt the baseline.

    Source: Hendrycks and Dietterich, ICLR 2019, section 4.1.

    Example:
        >>> relative_mean_corruption_error(alexnet_baseline().errors, clean_error=0.435)
        1.0
    """
    check_fraction(clean_error, "clean_error")
    reference = find_baseline(baseline)
    return _mean_ratio(errors, clean_error, reference, reference.clean_error)


def mean_corrupted_error(
    errors: ErrorTable,
    *,
    corruptions: Iterable[str] | None = None,
    num_severities: int | None = NUM_SEVERITIES,
) -> float:
    """Mean over corruptions of the mean error over severities, not normalised by any baseline.

    Args:
        errors: Top-1 errors by corruption at severities 1 to 5, 0..1.
        corruptions: Those that make up the mean, such as the keys of `alexnet_baseline().errors`; None for
            all in `errors`.
        num_severities: How many each must have. None lets corruptions differ, as in benchmarks that leave out
            the strongest noise; each counts once.

    Returns:
        The mean, 0..1; one minus it is the mean accuracy.

    Raises:
        ValueError: If there is no corruption, one or a severity is missing, or an error is no fraction 0..1.

    Example:
        >>> mean_corrupted_error({"fog": [0.1, 0.2, 0.3, 0.4, 0.5], "contrast": [0.3] * 5})
        0.3
    """
    names = list(errors) if corruptions is None else list(corruptions)
    if not names:
        raise ValueError("expected errors of at least one corruption, got none")
    _check_none_missing(errors, names)
    for name in names:
        check_errors(errors[name], name, num_severities)
    return fmean(fmean(errors[name]) for name in names)


def mean_corrupted_error_by_group(
    errors: ErrorTable, groups: Mapping[str, str], *, num_severities: int | None = NUM_SEVERITIES
) -> dict[str, float]:
    """`mean_corrupted_error` of each group of corruptions.

    Args:
        errors: Top-1 errors by corruption at severities 1 to 5, 0..1.
        groups: Group of each corruption, such as "noise", "blur", "weather", "digital".
        num_severities: As in `mean_corrupted_error`.

    Returns:
        Mean error by group, in the order in which `errors` first names one of the group.

    Raises:
        ValueError: If a corruption has no group, or as in `mean_corrupted_error`.

    Example:
        >>> errors = {"fog": [0.5] * 5, "contrast": [0.25] * 5, "pixelate": [0.75] * 5}
        >>> groups = {"fog": "weather", "contrast": "digital", "pixelate": "digital"}
        >>> mean_corrupted_error_by_group(errors, groups)
        {'weather': 0.5, 'digital': 0.5}
    """
    members: dict[str, list[str]] = {}
    for name in errors:
        if name not in groups:
            raise ValueError(f"expected a group for each corruption, got none for {name}")
        members.setdefault(groups[name], []).append(name)
    return {
        group: mean_corrupted_error(errors, corruptions=names, num_severities=num_severities)
        for group, names in members.items()
    }


def _mean_ratio(errors: ErrorTable, clean: float, baseline: Baseline, baseline_clean: float) -> float:
    _check_none_missing(errors, baseline.errors)
    return fmean(
        _ratio(errors[name], reference, clean, baseline_clean, name)
        for name, reference in baseline.errors.items()
    )


def _ratio(
    errors: SeverityErrors, baseline_errors: SeverityErrors, clean: float, baseline_clean: float, name: str
) -> float:
    """Sum of (error - clean) over the sum of the baseline's."""
    check_errors(errors, name, NUM_SEVERITIES)
    baseline_lost = math.fsum(error - baseline_clean for error in baseline_errors)
    if baseline_lost <= 0:
        raise ValueError(
            f"expected the baseline to make errors because of {name}, got a sum of {baseline_lost:.4g}"
        )
    return math.fsum(error - clean for error in errors) / baseline_lost


def _check_none_missing(errors: ErrorTable, expected: Iterable[str]) -> None:
    names = list(expected)
    missing = [name for name in names if name not in errors]
    if missing:
        raise ValueError(
            f"expected errors of all {len(names)} corruptions of the mean, got none for {', '.join(missing)}"
        )


class CorruptionErrors(Metric):
    """Counts the errors of a classifier by corruption and severity; gives the table the functions take.

    Args:
        corruptions: Names of those to be counted, in the order of the table; the 15 of ImageNet-C by default.

    Raises:
        ValueError: If there is none, one comes twice, or one is "clean", which stands for clean images.

    Example:
        >>> metric = CorruptionErrors(["fog"])
        >>> for severity in (1, 2, 3, 4, 5):
        ...     metric.update(torch.tensor([3, 7, 7, 0]), torch.tensor([3, 7, 2, 1]), "fog", severity)
        >>> metric.compute()
        {'fog': [0.5, 0.5, 0.5, 0.5, 0.5]}
    """

    def __init__(self, corruptions: Iterable[str] | None = None) -> None:
        self.corruptions = tuple(alexnet_baseline().errors if corruptions is None else corruptions)
        if not self.corruptions or len({CLEAN, *self.corruptions}) <= len(self.corruptions):
            raise ValueError(
                f'expected different corruptions, at least one, none called "clean", got {self.corruptions}'
            )
        super().__init__(1 + len(self.corruptions), 1 + NUM_SEVERITIES, 2)  # [..., 0] wrong, [..., 1] shown

    def update(self, predictions: torch.Tensor, labels: torch.Tensor, corruption: str, severity: int) -> None:
        """Count the errors of a batch under one condition.

        Args:
            predictions: (B,) predicted classes, or (B, C) logits, of which the largest counts.
            labels: (B,) classes.
            corruption: One of the metric's, or "clean".
            severity: 1 to 5; 0 for clean.

        Raises:
            ValueError: If the condition is not one of the metric's, or predictions and labels do not fit.
            RuntimeError: After `sync`.
        """
        cell = self._cell(corruption, severity)
        wrong = predicted_classes(predictions, labels) != labels
        counts = torch.zeros_like(self._counts, device=labels.device)
        counts[cell] = torch.stack((wrong.sum(), torch.tensor(len(labels), device=labels.device)))
        self.add_counts(counts)

    def compute(self) -> dict[str, list[float]]:
        """Errors by corruption at severities 1 to 5, 0..1.

        Raises:
            RuntimeError: If a corruption was not seen at every severity.
        """
        wrong, shown = self._total()[1:, 1:].unbind(-1)
        missing = [f"{self.corruptions[row]} {column + 1}" for row, column in (shown == 0).nonzero().tolist()]
        if missing:
            raise RuntimeError(
                f"expected images of every corruption at severities 1 to 5, got none of {', '.join(missing)}"
            )
        return dict(zip(self.corruptions, (wrong.double() / shown).tolist(), strict=True))

    def clean_error(self) -> float:
        """Error on clean images, 0..1.

        Raises:
            RuntimeError: If none was seen.
        """
        wrong, shown = self._total()[0, 0].tolist()
        if not shown:
            raise RuntimeError(
                'expected clean images, got none; call update(..., corruption="clean", severity=0)'
            )
        return float(wrong / shown)

    def _cell(self, corruption: str, severity: int) -> tuple[int, int]:
        if corruption == CLEAN:
            if severity != 0:
                raise ValueError(f"expected severity 0 of clean images, got {severity!r}")
            return 0, 0
        if corruption not in self.corruptions:
            raise ValueError(f"expected clean or one of {', '.join(self.corruptions)}, got {corruption!r}")
        if severity not in range(1, NUM_SEVERITIES + 1):
            raise ValueError(f"expected a severity from 1 to 5 of {corruption}, got {severity!r}")
        return 1 + self.corruptions.index(corruption), severity
