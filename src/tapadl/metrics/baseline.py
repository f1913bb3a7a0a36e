"""What metrics are relative to: the errors of a classifier that others are measured against.

Errors are top-1 errors as fractions, 0..1, at severities 1 to 5:
`{"fog": [0.31, 0.35, 0.41, 0.44, 0.53], ...}`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from typing import Any

NUM_SEVERITIES = 5
SeverityErrors = Sequence[float]
ErrorTable = Mapping[str, SeverityErrors]


@dataclass(frozen=True)
class Baseline:
    """Errors of the classifier that others are measured against.

    Attributes:
        name: What results call it.
        clean_error: Its top-1 error on clean images, 0..1.
        errors: Its top-1 errors by corruption at severities 1 to 5, 0..1; these corruptions make up the mean.

    Raises:
        ValueError: If there is no corruption, or an error is missing or no fraction 0..1.
    """

    name: str
    clean_error: float
    errors: ErrorTable

    def __post_init__(self) -> None:
        if not self.errors:
            raise ValueError("expected a baseline with errors of at least one corruption, got none")
        check_fraction(self.clean_error, "clean_error of the baseline")
        for corruption, errors in self.errors.items():
            check_errors(errors, f"{corruption} of the baseline", NUM_SEVERITIES)


@cache
def alexnet_baseline() -> Baseline:
    """AlexNet's errors on the 15 corruptions of ImageNet-C: what published mCE is normalised by.

    Source: Hendrycks and Dietterich, ICLR 2019, arXiv:1903.12261; the clean error is the paper's rounding.

    Example:
        >>> alexnet_baseline().clean_error, len(alexnet_baseline().errors)
        (0.435, 15)
    """
    content = (resources.files(__package__) / "alexnet.json").read_text(encoding="utf-8")
    return Baseline(**json.loads(content))


@dataclass(frozen=True)
class PerturbationBaseline:
    """What one classifier has, as a measure for others: AlexNet, in the published benchmark.

    No table of AlexNet's values that could be checked is public; measure it, at the same difficulty.

    Attributes:
        name: What results call it.
        flip_probabilities: By perturbation, 0..1.
        top5_distances: By perturbation, 0..18.
    """

    name: str
    flip_probabilities: Mapping[str, float]
    top5_distances: Mapping[str, float]


def find_baseline(baseline: str | Baseline | Mapping[str, Any]) -> Baseline:
    """The baseline that is meant.

    Raises:
        ValueError: If it is none.
    """
    if isinstance(baseline, Baseline):
        return baseline
    if isinstance(baseline, str):
        if baseline != "alexnet":
            raise ValueError(
                f'expected the baseline "alexnet", a Baseline or what a file of one holds, got {baseline!r}'
            )
        return alexnet_baseline()
    expected = {field.name for field in fields(Baseline)}
    if set(baseline) != expected:
        raise ValueError(
            f"expected a baseline with {', '.join(sorted(expected))}, got {', '.join(sorted(baseline))}"
        )
    return Baseline(**baseline)


def check_errors(errors: SeverityErrors, name: str, num_severities: int | None) -> None:
    """Refuse errors of one corruption that are not fractions by severity; None for any number of them.

    Raises:
        ValueError: Naming what is wrong.
    """
    if isinstance(errors, Mapping):
        raise ValueError(
            f"expected the errors of {name} as a list by severity, got a mapping; pass its values"
        )
    if len(errors) == 0 or num_severities not in (None, len(errors)):
        expected = "at least one severity" if num_severities is None else f"{num_severities} severities"
        raise ValueError(f"expected errors of {name} at {expected}, got {len(errors)}")
    for severity, error in enumerate(errors, start=1):
        check_fraction(error, f"the error of {name} at severity {severity}")


def check_fraction(error: float, what: str) -> None:
    """Refuse percent, NaN and whatever else is not in 0..1.

    Raises:
        ValueError: Naming it.
    """
    if not 0 <= error <= 1:
        raise ValueError(f"expected {what} to be a fraction in 0..1, got {error}; divide percent by 100")
