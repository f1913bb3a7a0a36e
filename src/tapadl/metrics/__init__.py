"""How well a model holds: errors under corruption, relative to AlexNet's and as they are."""

from tapadl.metrics.corruption import (
    Baseline,
    CorruptionErrors,
    SeverityErrors,
    alexnet_baseline,
    corruption_error,
    mean_corrupted_error,
    mean_corrupted_error_by_group,
    mean_corruption_error,
    relative_mean_corruption_error,
)

__all__ = [
    "Baseline",
    "CorruptionErrors",
    "SeverityErrors",
    "alexnet_baseline",
    "corruption_error",
    "mean_corrupted_error",
    "mean_corrupted_error_by_group",
    "mean_corruption_error",
    "relative_mean_corruption_error",
]
