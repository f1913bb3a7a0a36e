"""How much corruptions hurt a classifier: corruption errors, relative to AlexNet's and as they are.

Errors are top-1 errors as fractions, 0..1, by severity, and those by corruption:
`{"fog": {1: 0.31, 2: 0.35, ...}, ...}`.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from statistics import fmean

SeverityErrors = Mapping[int, float]
CorruptionErrors = Mapping[str, SeverityErrors]


@dataclass(frozen=True)
class Baseline:
    """Errors of the classifier that others are measured against.

    Attributes:
        clean_error: Its top-1 error on clean images, 0..1.
        errors: Its top-1 errors by corruption and severity, 0..1; these corruptions make up the mean.
    """

    clean_error: float
    errors: CorruptionErrors


@cache
def alexnet_baseline() -> Baseline:
    """AlexNet's errors on the 15 corruptions of ImageNet-C: what published mCE is normalised by.

    Source: Hendrycks and Dietterich, ICLR 2019, arXiv:1903.12261; the clean error is the paper's rounding.

    Example:
        >>> alexnet_baseline().clean_error, len(alexnet_baseline().errors)
        (0.435, 15)
    """
    table = json.loads((resources.files(__package__) / "alexnet.json").read_text(encoding="utf-8"))
    errors = {name: dict(enumerate(values, start=1)) for name, values in table["errors"].items()}
    return Baseline(table["clean_error"], errors)


def corruption_error(errors: SeverityErrors, baseline_errors: SeverityErrors) -> float:
    """Corruption error of one corruption: sum over severities of error / the same sum of the baseline.

    Args:
        errors: Top-1 error by severity, 0..1.
        baseline_errors: The baseline's, for the same severities.

    Returns:
        The ratio; 1.0 is the 100 % of reports.

    Raises:
        ValueError: If a severity of one is missing in the other, or an error is not a fraction 0..1.

    Source: Hendrycks and Dietterich, ICLR 2019, section 4.1.

    Example:
        >>> corruption_error({1: 0.25, 2: 0.5}, {1: 0.5, 2: 1.0})
        0.5
    """
    return _ratio(errors, baseline_errors, 0.0, 0.0, "the corruption")


def mean_corruption_error(errors: CorruptionErrors, baseline: Baseline | None = None) -> float:
    """Mean of the corruption errors over the corruptions of the baseline; `mce` in results.

    Args:
        errors: Top-1 error by corruption and severity, 0..1. Corruptions that the baseline lacks, such as the
            four for validation, take no part.
        baseline: AlexNet by default.

    Returns:
        The mean; 1.0 is the 100 % of reports and AlexNet's own.

    Raises:
        ValueError: If a corruption or severity of the baseline is missing or an error is not a fraction 0..1.

    Source: Hendrycks and Dietterich, ICLR 2019, section 4.1.

    Example:
        >>> mean_corruption_error(alexnet_baseline().errors)
        1.0
    """
    return _mean_ratio(errors, 0.0, baseline or alexnet_baseline(), 0.0)


def relative_mean_corruption_error(
    errors: CorruptionErrors, clean_error: float, baseline: Baseline | None = None
) -> float:
    """Mean over corruptions of how much is lost against clean images; `relative_mce` in results.

    For one corruption: sum over severities of (error - clean error) / the same sum of the baseline.

    Args:
        errors: Top-1 error by corruption and severity, 0..1; as in `mean_corruption_error`.
        clean_error: Top-1 error on clean images, 0..1.
        baseline: AlexNet by default.

    Returns:
        The mean; 1.0 is the 100 % of reports, 0.0 a model that corruptions do not hurt.

    Raises:
        ValueError: If a corruption or severity of the baseline is missing, an error is not a fraction 0..1,
            or a corruption does not hurt the baseline.

    Source: Hendrycks and Dietterich, ICLR 2019, section 4.1.

    Example:
        >>> relative_mean_corruption_error(alexnet_baseline().errors, clean_error=0.435)
        1.0
    """
    _check_fraction(clean_error, "clean_error")
    reference = baseline or alexnet_baseline()
    return _mean_ratio(errors, clean_error, reference, reference.clean_error)


def mean_corrupted_error(errors: CorruptionErrors) -> float:
    """Mean over corruptions of the mean error over severities, not normalised by any baseline.

    Args:
        errors: Top-1 error by corruption and severity, 0..1. Corruptions may differ in their severities, as
            in benchmarks that leave out the strongest noise; each counts once.

    Returns:
        The mean, 0..1; one minus it is the mean accuracy.

    Raises:
        ValueError: If there is no corruption, one has no severity, or an error is not a fraction 0..1.

    Example:
        >>> mean_corrupted_error({"fog": {1: 0.25, 2: 0.75}, "contrast": {1: 0.0}})
        0.25
    """
    if not errors:
        raise ValueError("expected errors of at least one corruption, got none")
    for name, by_severity in errors.items():
        if not by_severity:
            raise ValueError(f"expected errors of at least one severity of {name}, got none")
        _check_fractions(by_severity, name)
    return fmean(fmean(by_severity.values()) for by_severity in errors.values())


def mean_corrupted_error_by_group(errors: CorruptionErrors, groups: Mapping[str, str]) -> dict[str, float]:
    """`mean_corrupted_error` of each group of corruptions.

    Args:
        errors: Top-1 error by corruption and severity, 0..1.
        groups: Group of each corruption, such as "noise", "blur", "weather", "digital".

    Returns:
        Mean error by group, in the order in which `errors` first names one of the group.

    Raises:
        ValueError: If a corruption has no group, or as in `mean_corrupted_error`.

    Example:
        >>> errors = {"fog": {1: 0.5}, "contrast": {1: 0.25}, "pixelate": {1: 0.75}}
        >>> groups = {"fog": "weather", "contrast": "digital", "pixelate": "digital"}
        >>> mean_corrupted_error_by_group(errors, groups)
        {'weather': 0.5, 'digital': 0.5}
    """
    members: dict[str, dict[str, SeverityErrors]] = {}
    for name, by_severity in errors.items():
        if name not in groups:
            raise ValueError(f"expected a group for each corruption, got none for {name}")
        members.setdefault(groups[name], {})[name] = by_severity
    return {group: mean_corrupted_error(group_errors) for group, group_errors in members.items()}


def _mean_ratio(errors: CorruptionErrors, clean: float, baseline: Baseline, baseline_clean: float) -> float:
    if not baseline.errors:
        raise ValueError("expected a baseline with errors of at least one corruption, got none")
    missing = [name for name in baseline.errors if name not in errors]
    if missing:
        raise ValueError(
            f"expected errors of all {len(baseline.errors)} corruptions of the baseline, got none for "
            f"{', '.join(missing)}; mean_corrupted_error takes any set of corruptions"
        )
    ratios = [
        _ratio(errors[name], reference, clean, baseline_clean, name)
        for name, reference in baseline.errors.items()
    ]
    return fmean(ratios)


def _ratio(
    errors: SeverityErrors, baseline_errors: SeverityErrors, clean: float, baseline_clean: float, name: str
) -> float:
    """Sum of (error - clean) over the sum of the baseline's."""
    missing = sorted(set(baseline_errors) - set(errors))
    if missing or len(errors) > len(baseline_errors):
        reason = f"; missing: {', '.join(map(str, missing))}" if missing else ""
        raise ValueError(
            f"expected errors of {name} at the severities of the baseline, {sorted(baseline_errors)}, "
            f"got {sorted(errors)}{reason}"
        )
    _check_fractions(errors, name)
    _check_fractions(baseline_errors, f"{name} of the baseline")
    # Sums run in the same order of severities, so that a model equal to the baseline gets exactly 1.
    lost = math.fsum(errors[severity] - clean for severity in baseline_errors)
    baseline_lost = math.fsum(error - baseline_clean for error in baseline_errors.values())
    if baseline_lost <= 0:
        raise ValueError(
            f"expected the baseline to make errors because of {name}, got a sum of {baseline_lost:.4g}"
        )
    return lost / baseline_lost


def _check_fractions(errors: SeverityErrors, name: str) -> None:
    for severity, error in errors.items():
        _check_fraction(error, f"the error of {name} at severity {severity}")


def _check_fraction(error: float, what: str) -> None:
    if not 0 <= error <= 1:
        raise ValueError(f"expected {what} to be a fraction in 0..1, got {error}; divide percent by 100")
