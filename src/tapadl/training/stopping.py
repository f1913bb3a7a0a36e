"""Stopping when asked to: SIGTERM, as batch systems send it before they take the machine away."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_GRACE_SECONDS = 20


class StopRequestedError(BaseException):
    """Raised inside `StopSignal.interrupting` on SIGTERM; no error that a library could take for its own."""


class StopSignal:
    """Whether SIGTERM came. Outside of the main thread it cannot be heard, and nothing changes.

    Example:
        >>> import os
        >>> with StopSignal() as stop:
        ...     os.kill(os.getpid(), signal.SIGTERM)
        ...     stop.requested
        True
    """

    def __init__(self) -> None:
        self.requested = False
        self._interrupts = False
        self._before: Any = None
        self._hears = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> "StopSignal":
        if self._hears:
            self._before = signal.signal(signal.SIGTERM, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        if self._hears:
            signal.signal(signal.SIGTERM, self._before)

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Inside, the signal ends the block at once with an error; nothing in it may be in need of an end.

        Raises:
            StopRequestedError: When the signal comes, or came before.
        """
        try:
            self._interrupts = True
            if self.requested:
                raise StopRequestedError
            yield
        finally:
            self._interrupts = False

    def _hear(self, _signal: int, _frame: FrameType | None) -> None:
        self.requested = True
        if self._interrupts:
            # once: what then ends the block is not interrupted
            self._interrupts = False
            raise StopRequestedError


def leave_stopping_to_trainer(worker: int = 0) -> None:
    """For the processes of a loader (`worker_init_fn`): SIGTERM, which reaches them too, ends them later.

    The trainer would die of their death instead of saving. It ends them before it saves; one that is
    forgotten ends after a while by itself.
    """
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE_SECONDS))
