"""Many small tasks side by side, each in one of several processes that end with the first."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import TypeVar

import torch

Task = TypeVar("Task")
Result = TypeVar("Result")

# Enough that no process waits for its next task, few enough that an error ends the job soon.
_TASKS_AHEAD = 4


def map_side_by_side(
    function: Callable[[Task], Result], tasks: Iterable[Task], *, processes: int
) -> Generator[Result, None, None]:
    """The results of a function, as they are finished.

    Args:
        function: What a new process can import; it and the tasks travel there.
        tasks: Its arguments.
        processes: How many at once, on one thread each; 1 for this one, on the threads it has.

    Raises:
        Exception: What the function raises; the tasks that are left are not begun.
        RuntimeError: If a process dies.
    """
    if processes == 1:
        yield from map(function, tasks)
        return
    others = multiprocessing.active_children()
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=begin_worker)
    left = iter(tasks)
    try:
        pending: set[Future[Result]] = set()
        while True:
            pending |= {
                pool.submit(function, task) for task in islice(left, _TASKS_AHEAD * processes - len(pending))
            }
            if not pending:
                return
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    except BrokenProcessPool:
        end_all_but(others)
        raise RuntimeError(
            "a worker process was killed, often because memory ran out; the same command goes on where it "
            "was, and fewer workers take less memory"
        ) from None
    except BaseException:
        # what they are at would take a while, and nobody takes it
        end_all_but(others)
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def end_all_but(others: list[multiprocessing.process.BaseProcess]) -> None:
    """Stop the processes that this one has started, but for those."""
    for process in multiprocessing.active_children():
        if process not in others:
            process.terminate()


def begin_worker() -> None:
    """In a new process: one thread, no interrupts of its own, and an end when the first process ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process is interrupted and ends the others
    threading.Thread(target=_end_with_the_first_process, daemon=True).start()
    torch.set_num_threads(1)


def _end_with_the_first_process() -> None:
    first = multiprocessing.parent_process()
    if first is not None:
        first.join()
        os._exit(1)
