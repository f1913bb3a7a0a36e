"""All settings of a run together."""

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from tapadl.training.settings.checks import to_plain
from tapadl.training.settings.data import AugmentationSettings, DataSettings
from tapadl.training.settings.model import AdlSettings, ModelSettings, TapSettings
from tapadl.training.settings.optimization import OptimizerSettings, ScheduleSettings, TrainingSettings
from tapadl.training.settings.output import CheckpointSettings, EvaluationSettings, LoggingSettings
from tapadl.training.settings.segmentation import SegmentationSettings
from tapadl.training.settings.task import Task, check_task


@dataclass(frozen=True)
class Settings:
    """Everything that decides what a training run does.

    Args:
        task: classification or segmentation; a class for each image, or for each pixel.
        model: What is trained.
        data: Which images it sees.
        tap: Token-aware average pooling.
        adl: The attention diversification loss.
        segmentation: What only segmentation needs to know.
        augmentation: What is done to the images.
        optimizer: How a step moves the weights.
        schedule: How the learning rate goes.
        training: How long, on what, with which arithmetic.
        checkpoint: When the state is saved.
        evaluation: What is measured on the way.
        logging: What is told on the way.

    Raises:
        ValueError: If sections contradict one another.

    Example:
        >>> settings = Settings(ModelSettings("deit_tiny_patch16_224"), DataSettings("embedded"))
        >>> settings.tap.num_branches, settings.adl.tau
        (4, 2.0)
    """

    task: Task = field(default="classification", kw_only=True)
    model: ModelSettings
    data: DataSettings
    tap: TapSettings = field(default_factory=TapSettings)
    adl: AdlSettings = field(default_factory=AdlSettings)
    segmentation: SegmentationSettings = field(default_factory=SegmentationSettings, kw_only=True)
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    logging: LoggingSettings = field(default_factory=LoggingSettings)

    def __post_init__(self) -> None:
        check_task(self.task, vars(self))
        if self.task == "segmentation" and ":" in self.model.name:
            raise ValueError(
                f"expected model.name to be a backbone of timm where task is segmentation, "
                f"got {self.model.name!r}"
            )
        if self.model.name.startswith("tap_") and not self.tap.enabled:
            raise ValueError(
                f"expected tap.enabled to be true for {self.model.name}, which has TAP built in, got False; "
                f"name the model without tap_ to train it without"
            )
        if not self.schedule.warmup_epochs < self.training.epochs:
            raise ValueError(
                f"expected schedule.warmup_epochs to be below training.epochs, {self.training.epochs}, "
                f"got {self.schedule.warmup_epochs:g}"
            )
        for name in ("warmup_lr", "min_lr"):
            if getattr(self.schedule, name) > self.optimizer.lr:
                raise ValueError(
                    f"expected schedule.{name} to be at most optimizer.lr, {self.optimizer.lr:g}, "
                    f"got {getattr(self.schedule, name):g}"
                )
        if (
            self.training.compile
            and self.training.grad_checkpointing
            and (self.tap.enabled or self.adl.enabled)
        ):
            raise ValueError(
                "expected training.grad_checkpointing to be false where training.compile is true and TAP or "
                "ADL is on, which dynamo cannot follow into a checkpoint; choose one of the two"
            )
        if self.evaluation.corruptions and self.data.val is None:
            raise ValueError("expected data.val, whose images evaluation.corruptions corrupts, got none")

    def to_json(self) -> dict[str, Any]:
        """As plain data, section by section; every key stands in it."""
        values = ((item.name, getattr(self, item.name)) for item in fields(self))
        return {name: to_plain(value) if is_dataclass(value) else value for name, value in values}
