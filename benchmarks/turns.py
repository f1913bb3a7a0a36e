"""Loops in processes of their own that take turns, so that they meet the machine in the same state."""

import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from typing import TypeVar

import torch

T = TypeVar("T")


class Pace:
    """Lets a loop take steps when it is told to, and measures how long it waits for its images."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._until = 0
        self._waited = 0.0

    def on_step(self, step: int) -> None:
        """Report after the last step that was asked for, and wait until more are.

        Args:
            step: Steps done, 0 at first.
        """
        if step < self._until:
            return
        if step:
            self._connection.send(self._waited)
        try:
            self._until += self._connection.recv()
        except EOFError:
            raise SystemExit from None
        self._waited = 0.0

    def watch(self, batches: Iterable[T]) -> Iterator[T]:
        """The batches."""
        start = time.perf_counter()
        for batch in batches:
            self._waited += time.perf_counter() - start
            yield batch
            start = time.perf_counter()


class Turns:
    """A loop in another process; when called, it takes the steps of a turn.

    Args:
        steps: Of a turn.
        run: A function of a module (it is sent to the new process by name): trains, with the pace as its
            last argument.
        arguments: Those before.
    """

    def __init__(self, steps: int, run: Callable[..., object], *arguments: object) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other_end = context.Pipe()
        self._steps = steps
        self._times: list[tuple[float, float]] = []
        self._process = context.Process(
            target=_serve, args=(other_end, torch.get_num_threads(), run, arguments)
        )
        self._process.start()
        other_end.close()

    def __call__(self) -> None:
        """Take a turn."""
        start = time.perf_counter()
        self._connection.send(self._steps)
        waited = self._connection.recv()
        self._times.append((waited, time.perf_counter() - start))

    def waiting_share(self, turns: int) -> float:
        """The part of the last turns in which the loop waited for images."""
        waited, seconds = (sum(times) for times in zip(*self._times[-turns:], strict=True))
        return round(waited / seconds, 3)

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join()


def _serve(
    connection: Connection, num_threads: int, run: Callable[..., object], arguments: tuple[object, ...]
) -> None:
    torch.set_num_threads(num_threads)
    run(*arguments, Pace(connection))
