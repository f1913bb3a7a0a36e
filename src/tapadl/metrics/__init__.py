"""How well a model holds: under corruption and perturbation, in segmentation, in confidence, and compared."""

from tapadl.metrics.baseline import (
    Baseline,
    ErrorTable,
    PerturbationBaseline,
    SeverityErrors,
    alexnet_baseline,
)
from tapadl.metrics.calibration import ExpectedCalibrationError, expected_calibration_error
from tapadl.metrics.comparison import bootstrap_interval, paired_test
from tapadl.metrics.corruption import (
    CorruptionErrors,
    corruption_error,
    mean_corrupted_error,
    mean_corrupted_error_by_group,
    mean_corruption_error,
    relative_mean_corruption_error,
)
from tapadl.metrics.perturbation import (
    FlipProbability,
    Top5Distance,
    class_ranks,
    flip_probability,
    mean_flip_rate,
    mean_top5_distance,
    top5_distance,
)
from tapadl.metrics.segmentation import MeanIoU, mean_iou

__all__ = [
    "Baseline",
    "CorruptionErrors",
    "ErrorTable",
    "ExpectedCalibrationError",
    "FlipProbability",
    "MeanIoU",
    "PerturbationBaseline",
    "SeverityErrors",
    "Top5Distance",
    "alexnet_baseline",
    "bootstrap_interval",
    "class_ranks",
    "corruption_error",
    "expected_calibration_error",
    "flip_probability",
    "mean_corrupted_error",
    "mean_corrupted_error_by_group",
    "mean_corruption_error",
    "mean_flip_rate",
    "mean_iou",
    "mean_top5_distance",
    "paired_test",
    "relative_mean_corruption_error",
    "top5_distance",
]
