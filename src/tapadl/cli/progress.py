"""Progress bars with the time left."""

import time
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from tapadl.training.diary import Progress as TrainingProgress

# Of what a run logs, the parts of its loss.
_LOSSES = ("loss", "cross_entropy", "augmented_cross_entropy", "adl")


class DemoBars:
    """One bar for every run at work and one for all; a sentence a line where there is no terminal.

    Args:
        console: Where they are drawn.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = _make_progress(console)
        self._whole = self._progress.add_task("whole demo", total=None)
        self._runs: dict[str, TaskID] = {}

    def expect(self, work: int) -> None:
        """So much work is left in all."""
        self._progress.update(self._whole, total=work)

    def begin(self, run: str, stage: str, work: int) -> None:
        """A stage of a run begins."""
        text = f"{run}: {stage}"
        if not self._console.is_terminal:
            self._console.print(text, highlight=False)
        if run not in self._runs:
            self._runs[run] = self._progress.add_task(text)
        self._progress.reset(self._runs[run], total=work or None, description=text)

    def advance(self, run: str, work: int) -> None:
        """So much of the stage is done."""
        self._progress.advance(self._runs[run], work)
        self._progress.advance(self._whole, work)

    def end(self, run: str) -> None:
        """A run is finished."""
        self._progress.remove_task(self._runs.pop(run))

    def tell(self, text: str) -> None:
        """A sentence for the reader, above the bars."""
        self._console.print(text, highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._progress.stop()


class WorkBar:
    """One bar with the time left; where there is no terminal, a line every tenth of the work.

    Args:
        console: Where it is drawn.
        text: What is worked on.
        work: How much there is to do.
    """

    def __init__(self, console: Console, text: str, work: int) -> None:
        self._console = console
        self._text = text
        self._work = work
        self._done = 0
        self._progress = _make_progress(console)
        self._task = self._progress.add_task(text, total=work)

    def advance(self, work: int) -> None:
        """So much more is done."""
        before = 10 * self._done // max(self._work, 1)
        self._done += work
        self._progress.advance(self._task, work)
        if not self._console.is_terminal and 10 * self._done // max(self._work, 1) > before:
            self._console.print(f"{self._text}: {self._done:,} of {self._work:,}", highlight=False)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._progress.stop()


class TrainingBars:
    """One bar for the steps, with the newest numbers, and one while it evaluates.

    Where there is no terminal, a line for every line of the log.

    Args:
        console: Where they are drawn.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = _make_progress(console, TextColumn("{task.fields[numbers]}"))
        self._steps: TaskID | None = None
        self._shown: TaskID | None = None
        self._began: tuple[float, int] | None = None

    def tell(self, sentence: str) -> None:
        """A sentence, above the bars."""
        self._console.print(sentence, highlight=False, markup=False, soft_wrap=True)

    def begin(self, total_steps: int) -> None:
        """Training is about to begin or go on."""
        self._steps = self._progress.add_task("training", total=total_steps, numbers="")

    def stepped(self, step: int) -> None:
        """So many steps are done."""
        if self._steps is None:
            return
        if self._began is None:
            self._began = (time.monotonic(), step)
            # the steps of an earlier start took no time now
            self._progress.reset(self._steps, completed=step)
        self._progress.update(self._steps, completed=step)

    def trained(self, progress: "TrainingProgress") -> None:
        """A line of the log."""
        values = progress.values
        losses = [f"{name.replace('_', ' ')} {values[name]:.4g}" for name in values if name in _LOSSES]
        numbers = [
            *losses,
            f"lr {values['learning_rate']:.2e}",
            f"{values['images_per_second']:,.0f} images/s",
        ]
        if self._steps is not None:
            self._progress.update(self._steps, numbers=", ".join(numbers))
        if not self._console.is_terminal:
            where = f"step {progress.step:,} of {progress.total_steps:,} (epoch {progress.epoch})"
            self.tell(f"{where}: {', '.join(numbers)}, {self._left(progress)} left")

    def shown(self, images: int, of: int) -> None:
        """So many images of an evaluation were shown."""
        if self._shown is None:
            self._shown = self._progress.add_task("evaluating", total=of, numbers="")
        self._progress.update(self._shown, completed=images, total=of)

    def evaluated(self, step: int, measured: Mapping[str, float]) -> None:
        """The scores after a step."""
        if self._shown is not None:
            self._progress.remove_task(self._shown)
            self._shown = None
        scores = ", ".join(
            f"{name.replace('_', ' ')} {100 * value:.1f} %" for name, value in measured.items()
        )
        self.tell(f"after step {step:,}: {scores}")

    def _left(self, progress: "TrainingProgress") -> str:
        if self._began is None:
            return "unknown time"
        since, first = self._began
        seconds = (time.monotonic() - since) * (progress.total_steps - progress.step)
        return str(timedelta(seconds=round(seconds / max(progress.step - first, 1))))

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._progress.stop()


def _make_progress(console: Console, *further: TextColumn) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        *further,
        console=console,
        disable=not console.is_terminal,
    )
