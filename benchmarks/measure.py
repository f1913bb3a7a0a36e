"""What every benchmark needs: interleaved timing, peak memory in a fresh process, environment, JSON."""

import gc
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

Step = Callable[[], object]

MEMORY_METHOD = (
    "fresh process; one warm-up step; then the rise of the resident high-water mark (VmHWM, reset through "
    "/proc/self/clear_refs) over the resident size before one step; buffers over 64 KiB are mapped one by one"
)


@dataclass(frozen=True)
class Comparison:
    """How many times faster a candidate is than a baseline, from pairs timed one after the other.

    The ratio of a pair is immune to a machine that slows down between pairs; the median and the quartiles
    are over the pairs. Times are medians in milliseconds.
    """

    speedup: float
    speedup_quartiles: tuple[float, float]
    pairs: int
    baseline_ms: float
    candidate_ms: float


def compare(baseline: Step, candidate: Step, *, pairs: int, warmup: int = 3, repeats: int = 1) -> Comparison:
    """Time both steps in `pairs` alternating pairs, `repeats` calls each, after `warmup` calls of each.

    The order within a pair alternates, so that neither profits from what the other left in the caches.
    """
    for _ in range(warmup):
        baseline()
        candidate()
    times: dict[str, list[float]] = {"baseline": [], "candidate": []}
    steps = [("baseline", baseline), ("candidate", candidate)]
    for pair in range(pairs):
        for name, step in steps if pair % 2 == 0 else reversed(steps):
            times[name].append(_milliseconds(step, repeats))
    ratios = [slow / fast for slow, fast in zip(times["baseline"], times["candidate"], strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive") if pairs > 1 else (ratios[0],) * 3
    return Comparison(
        speedup=round(statistics.median(ratios), 2),
        speedup_quartiles=(round(low, 2), round(high, 2)),
        pairs=pairs,
        baseline_ms=round(statistics.median(times["baseline"]), 3),
        candidate_ms=round(statistics.median(times["candidate"]), 3),
    )


def median_ms(step: Step, *, runs: int, warmup: int = 3) -> float:
    """Median time of one step in milliseconds."""
    for _ in range(warmup):
        step()
    return round(statistics.median(_milliseconds(step, 1) for _ in range(runs)), 3)


def _milliseconds(step: Step, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        step()
    return (time.perf_counter() - start) * 1e3 / repeats


def peak_memory(build: Callable[..., Step], *args: object) -> int:
    """Bytes one step adds at its peak, measured as `MEMORY_METHOD` says; Linux only.

    Args:
        build: A function of a module (it is sent to the new process by name) that makes the step. What it
            builds, such as inputs and parameters, is not counted.
        args: Arguments of `build`.

    Raises:
        RuntimeError: If the process ends without an answer.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    # Read by glibc at the start of a process: freed buffers go back to the system, so the mark follows use.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(64 * 1024)
    process = context.Process(target=_measure_peak, args=(sender, torch.get_num_threads(), build, args))
    try:
        process.start()
    finally:
        del os.environ["MALLOC_MMAP_THRESHOLD_"]
    sender.close()
    try:
        peak: int = receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(
            f"expected a peak from {build.__name__}{args}, got exit code {process.exitcode}"
        ) from None
    process.join()
    return peak


def _measure_peak(
    sender: Connection, num_threads: int, build: Callable[..., Step], args: tuple[object, ...]
) -> None:
    torch.set_num_threads(num_threads)
    step = build(*args)
    step()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident_bytes("VmRSS")
    step()
    sender.send(_resident_bytes("VmHWM") - before)


def _resident_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def environment() -> dict[str, Any]:
    """Versions, hardware and load that a measurement depends on."""
    cpu = Path("/proc/cpuinfo")
    names = (
        [line for line in cpu.read_text().splitlines() if line.startswith("model name")]
        if cpu.exists()
        else []
    )
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu": names[0].split(":")[1].strip() if names else platform.processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def write_results(path: Path, *, rows: list[dict[str, Any]], **facts: object) -> None:
    """Write the rows of a benchmark with its command line, environment and further `facts` as JSON."""
    command = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    document = {"command": command, "environment": environment(), **facts, "rows": rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")


def as_row(comparison: Comparison, **facts: object) -> dict[str, Any]:
    """One row of results: what was measured (`facts`), then the comparison."""
    return {**facts, **asdict(comparison)}
