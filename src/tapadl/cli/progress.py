"""Progress bars with the time left."""

from types import TracebackType
from typing import Self

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


def _make_progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
