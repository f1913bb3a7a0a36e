"""Standard output that cannot end a job, and what commands write there."""

import io
import os
import shlex
import sys
from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, cast

if TYPE_CHECKING:
    from rich.console import Console


class LastingOutput(io.TextIOBase):
    """Passes text on while somebody takes it: a closed pipe or a full disk ends the text, not the job.

    Characters that the encoding of the stream does not know are replaced.

    Args:
        stream: Where the text goes; None for nowhere.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.failure: str | None = None
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of the stream."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        """Whether a person looks on."""
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        """Of the stream."""
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Write, or do nothing after a failure."""
        if self._stream is not None and self.failure is None:
            try:
                self._stream.write(text)
            except OSError as error:
                self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """Flush, or do nothing after a failure."""
        if self._stream is not None and self.failure is None:
            try:
                self._stream.flush()
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.failure = error.strerror or str(error)
        if self._stream is sys.__stdout__:
            # what is still in the buffer would fail once more when Python ends
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)


def make_console(output: LastingOutput) -> "Console":
    """A console that writes there; wide enough for tables where nobody looks on."""
    from rich.console import Console

    console = Console(file=cast("TextIO", output))
    return console if console.is_terminal else Console(file=cast("TextIO", output), width=120)


def say(console: "Console", text: str) -> None:
    """A line that may hold a folder's name to be copied: never wrapped, never read as markup."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def repeatable_command(
    command: str, words: Sequence[str], *, folders: Sequence[str] = (), several: Sequence[str] = ()
) -> str:
    """What to type to get the same result, without where it is written and without folders of this machine.

    Of other words that are the path of a file or folder from the root or home, its own name is kept.

    Args:
        command: Such as "demo".
        words: The words behind it.
        folders: Options that take one folder, which is left out of a published result.
        several: Options that take any number of them.
    """
    kept: list[str] = []
    skip = 0.0
    for word in words:
        name, given, _ = word.partition("=")
        if word.startswith("--"):
            skip = 0
        if skip:
            skip -= 1
        elif name == "--out" or name in folders or name in several:
            kept += [name, "DIR"] if name != "--out" else []
            skip = 0 if given else inf if name in several else 1
        elif word != "--overwrite":
            kept.append(_without_folder(word))
    return shlex.join(["tapadl", command, *kept])


def _without_folder(word: str) -> str:
    """`local-dir:/models/fan` -> `local-dir:fan`, if there is one."""
    start = max(word.find("="), word.find(":")) + 1
    path = Path(word[start:])
    is_whole = path.is_absolute() or word[start:].startswith("~")
    return word[:start] + path.name if is_whole and path.name and path.expanduser().exists() else word
