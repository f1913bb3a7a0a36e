"""The settings of `tapadl train`: one frozen dataclass a section, checked when they are made."""

from tapadl.training.settings.data import AugmentationSettings, DataSettings
from tapadl.training.settings.model import AdlSettings, ModelSettings, TapSettings
from tapadl.training.settings.optimization import (
    OptimizerSettings,
    Parallel,
    Precision,
    ScheduleSettings,
    TrainingSettings,
)
from tapadl.training.settings.output import CheckpointSettings, EvaluationSettings, LoggingSettings
from tapadl.training.settings.run import Settings
from tapadl.training.settings.segmentation import Dataset, SegmentationSettings
from tapadl.training.settings.task import Task

__all__ = [
    "AdlSettings",
    "AugmentationSettings",
    "CheckpointSettings",
    "DataSettings",
    "Dataset",
    "EvaluationSettings",
    "LoggingSettings",
    "ModelSettings",
    "OptimizerSettings",
    "Parallel",
    "Precision",
    "ScheduleSettings",
    "SegmentationSettings",
    "Settings",
    "TapSettings",
    "Task",
    "TrainingSettings",
]
