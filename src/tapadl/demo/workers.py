"""Runs of a demo side by side, each in a process and on a thread of its own."""

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

from tapadl.demo.bench import Bench, Observer, load_data
from tapadl.demo.folder import DemoFolder
from tapadl.demo.settings import DemoSettings, Variant
from tapadl.evaluation.worker_processes import begin_worker, end_all_but

Event = tuple[str, tuple[Any, ...]]

_POLL_SECONDS = 0.2


def run_side_by_side(
    settings: DemoSettings,
    data_root: Path | None,
    folder: DemoFolder,
    runs: Sequence[tuple[Variant, int]],
    *,
    processes: int,
    observer: Observer,
) -> None:
    """Do runs in worker processes; their results and weights are in the folder afterwards.

    Args:
        settings: What is compared.
        data_root: As in `load_data`.
        folder: Takes every run as soon as it is finished.
        runs: (variant, seed) of each.
        processes: How many at once.
        observer: Is told how it goes, in this process.

    Raises:
        ValueError: If the data cannot be read.
        RuntimeError: If a loss is not finite or a process dies.
        OSError: If the folder cannot be written.
    """
    others = multiprocessing.active_children()
    context = multiprocessing.get_context("spawn")
    events: Queue[Event] = context.Queue()
    pool = ProcessPoolExecutor(
        processes,
        mp_context=context,
        initializer=_prepare,
        initargs=(settings, data_root, folder, events),
    )
    try:
        pending = {pool.submit(_do_run, variant, seed) for variant, seed in runs}
        while pending:
            done, pending = wait(pending, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
            _pass_on(events, observer)
            for future in done:
                future.result()
    except BrokenProcessPool:
        end_all_but(others)
        raise RuntimeError(
            "a worker process was killed, often because memory ran out; the same command with the same --out "
            f"goes on ({folder.path}), and --processes 1 takes less memory"
        ) from None
    except BaseException:
        # What the others have finished is in the folder; what they are at would take minutes.
        end_all_but(others)
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        _pass_on(events, observer)


def _pass_on(events: "Queue[Event]", observer: Observer) -> None:
    while not events.empty():
        name, arguments = events.get()
        getattr(observer, name)(*arguments)


class _Messenger:
    """The observer of a worker: sends what it is told to the first process."""

    def __init__(self, events: "Queue[Event]") -> None:
        self._events = events

    def expect(self, work: int) -> None:
        self._events.put(("expect", (work,)))

    def begin(self, run: str, stage: str, work: int) -> None:
        self._events.put(("begin", (run, stage, work)))

    def advance(self, run: str, work: int) -> None:
        self._events.put(("advance", (run, work)))

    def end(self, run: str) -> None:
        self._events.put(("end", (run,)))

    def tell(self, text: str) -> None:
        self._events.put(("tell", (text,)))


# What a worker process keeps between runs; set once, by `_prepare`.
_kept: dict[str, Any] = {}


def _prepare(
    settings: DemoSettings, data_root: Path | None, folder: DemoFolder, events: "Queue[Event]"
) -> None:
    begin_worker()
    _kept.update(settings=settings, data_root=data_root, folder=folder, observer=_Messenger(events))


def _do_run(variant: Variant, seed: int) -> None:
    # Made here and not in `_prepare`: an exception there would break the pool without its message.
    if "bench" not in _kept:
        _kept["bench"] = Bench.of(_kept["settings"], load_data(_kept["settings"], _kept["data_root"]))
    _kept["bench"].do_run(_kept["folder"], variant, seed, _kept["observer"])
