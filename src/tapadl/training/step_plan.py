"""The numbers of a run that follow from its settings, the images and the processes."""

from dataclasses import dataclass
from typing import Self

from tapadl.training.settings import Settings


@dataclass(frozen=True)
class StepPlan:
    """How a run is cut into steps, and a step into parts.

    Args:
        steps_per_epoch: Full batches in the training images; what is left of an epoch is not shown.
        total_steps: Optimizer steps in all.
        warmup_steps: Steps of them over which the learning rate rises.
        micro_batch_size: Images that one process takes at a time.

    Example:
        >>> from tapadl.training.settings import DataSettings, ModelSettings, TrainingSettings
        >>> training = TrainingSettings(epochs=10, batch_size=64, accumulation=2)
        >>> settings = Settings(ModelSettings("vit"), DataSettings("embedded"), training=training)
        >>> StepPlan.of(settings, num_samples=1000, world_size=4)
        StepPlan(steps_per_epoch=15, total_steps=150, warmup_steps=75, micro_batch_size=8)
    """

    steps_per_epoch: int
    total_steps: int
    warmup_steps: int
    micro_batch_size: int

    @classmethod
    def of(cls, settings: Settings, num_samples: int, world_size: int = 1) -> Self:
        """The plan of a run.

        A run that `training.max_steps` shortens keeps the share of its warm-up.

        Args:
            settings: Of the run.
            num_samples: Training images.
            world_size: Processes that train together.

        Raises:
            ValueError: If there are fewer images than a batch takes, or a batch cannot be cut evenly.
        """
        training = settings.training
        if num_samples < training.batch_size:
            raise ValueError(
                f"expected at least {training.batch_size} training images for one batch, got {num_samples}; "
                f"lower training.batch_size"
            )
        parts = world_size * training.accumulation
        if training.batch_size % parts:
            raise ValueError(
                f"expected training.batch_size to be a multiple of {parts} ({world_size} processes x "
                f"{training.accumulation} parts of training.accumulation), got {training.batch_size}"
            )
        micro_batch_size = training.batch_size // parts
        if settings.augmentation.mixes and micro_batch_size % 2:
            raise ValueError(
                f"expected an even number of images in each of the {parts} parts of a batch for mixup and "
                f"cutmix, got {micro_batch_size}; change training.batch_size or training.accumulation"
            )
        steps_per_epoch = num_samples // training.batch_size
        total_steps = training.epochs * steps_per_epoch
        if training.max_steps is not None:
            total_steps = min(total_steps, training.max_steps)
        warmup_share = settings.schedule.warmup_epochs / training.epochs
        # a step is left after the warm-up, whatever the rounding
        warmup_steps = min(round(warmup_share * total_steps), total_steps - 1)
        return cls(steps_per_epoch, total_steps, warmup_steps, micro_batch_size)

    def place(self, step: int) -> tuple[int, int]:
        """The epoch of a step, from 0, and its place in it, from 0."""
        return divmod(step, self.steps_per_epoch)
