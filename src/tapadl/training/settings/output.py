"""What a run leaves behind: checkpoints, scores, a log."""

from dataclasses import dataclass

from tapadl.corruptions.severity import CORRUPTIONS, SEVERITIES
from tapadl.training.settings.checks import (
    AT_LEAST_1,
    Interval,
    check_distinct,
    check_named,
    check_numbers,
    refuse,
)


@dataclass(frozen=True)
class CheckpointSettings:
    """When the state is saved, besides at the end and on SIGTERM.

    Args:
        every_steps: After each so many steps, null: do not.
        every_epochs: After each so many epochs, null: do not; also before each evaluation.
        keep: Newest ones that are kept, and the best.
        asynchronous: Write while training goes on.

    Raises:
        ValueError: If a value is out of range.
    """

    every_steps: int | None = None
    every_epochs: int | None = 1
    keep: int = 3
    asynchronous: bool = True

    def __post_init__(self) -> None:
        check_numbers(self, AT_LEAST_1, "every_steps", "every_epochs", "keep")


@dataclass(frozen=True)
class EvaluationSettings:
    """What is measured on data.val while it trains, and at the end.

    Args:
        every_epochs: After each so many epochs.
        corruptions: Also, as [fog, jpeg_compression]; [] for clean images alone.
        severities: Of the corruptions, 1 to 5.
        images: Corrupt so many of them, null: all; always the same ones, of
            classes as many of each.

    Raises:
        ValueError: If a value is out of range, or a corruption is unknown.
    """

    every_epochs: int = 1
    corruptions: tuple[str, ...] = ()
    severities: tuple[int, ...] = (3,)
    images: int | None = None

    def __post_init__(self) -> None:
        check_numbers(self, AT_LEAST_1, "every_epochs", "images")
        check_numbers(self, Interval(min(SEVERITIES), max(SEVERITIES)), "severities")
        check_distinct(self, "corruptions", "severities")
        if not set(self.corruptions) <= set(CORRUPTIONS):
            raise refuse(self, "corruptions", f"out of {', '.join(CORRUPTIONS)}")
        if not self.severities:
            raise refuse(self, "severities", "to name a severity; leave out corruptions for clean images")


@dataclass(frozen=True)
class LoggingSettings:
    """What is told while it trains, besides log.jsonl.

    Args:
        every_steps: A line of the log each so many steps.
        tensorboard: Write for TensorBoard.
        wandb: Project in Weights & Biases, null: none.
        trackio: Project in Trackio, null: none.

    Raises:
        ValueError: If a value is out of range.
    """

    every_steps: int = 50
    tensorboard: bool = False
    wandb: str | None = None
    trackio: str | None = None

    def __post_init__(self) -> None:
        check_numbers(self, AT_LEAST_1, "every_steps")
        check_named(self, "wandb", "trackio")
