"""What a run tells of itself while it goes on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tapadl.training.log import RunLog
from tapadl.training.tracking import Tracker


@dataclass(frozen=True)
class Progress:
    """What the loop reports with every line of the log.

    Args:
        step: Steps done, from 1.
        total_steps: Steps in all.
        epoch: Of this step, from 1.
        values: Means over the images since the line before: the loss and its parts; also the learning rate
            of this step and images a second.
    """

    step: int
    total_steps: int
    epoch: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class Diary:
    """Where the first process writes down what happens.

    Args:
        log: Gets every line.
        trackers: Get the numbers too.
        on_progress: Called after every line about training.
        on_evaluation: Called after every evaluation with the step and what was measured.
    """

    log: RunLog
    trackers: Sequence[Tracker]
    on_progress: Callable[[Progress], None]
    on_evaluation: Callable[[int, Mapping[str, float]], None]

    def trained(self, progress: Progress) -> None:
        """Steps were done."""
        self._write("train", progress.step, {"epoch": progress.epoch, **progress.values})
        self.on_progress(progress)

    def evaluated(self, step: int, measured: Mapping[str, float]) -> None:
        """The model was evaluated after a step."""
        self._write("evaluation", step, measured)
        self.on_evaluation(step, measured)

    def _write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        self.log.write(kind, step, values)
        for tracker in self.trackers:
            tracker.log(step, {f"{kind}/{name}": value for name, value in values.items()})
