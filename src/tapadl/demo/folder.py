"""The output folder of a demo: refused, continued or started."""

import errno
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tapadl.demo.settings import VARIANTS, DemoSettings
from tapadl.evaluation.result import SCHEMA, RunResult, load_json, load_run, save_json, save_run

JOB = "job.json"
RESULTS = "results.json"
REPORT = "report.html"
RUNS = "runs"
LOCK = ".lock"

_RUN = rf"(?:{'|'.join(map(re.escape, VARIANTS))})_seed\d+"
# What a demo writes beside its job, by path in the folder.
_MADE = rf"results\.json|report\.html|model_{_RUN}\.safetensors|{RUNS}/{_RUN}\.json"
# What `write_atomically` leaves of such a file when it is killed.
_LEFTOVER = (
    rf"\.(job\.json|results\.json|report\.html|model_{_RUN}\.safetensors)\.\d+\.tmp"
    rf"|{RUNS}/\.{_RUN}\.json\.\d+\.tmp"
)
_ADVICE = "name another folder, or pass --overwrite to replace what is there"


@dataclass(frozen=True)
class DemoFolder:
    """Where a demo keeps what it makes.

    Args:
        path: The folder, which exists.
        continued: Whether it already held a part of the same job.
        job: What tells the job from others; every run carries it, and one of another job is not used.
    """

    path: Path
    continued: bool
    job: str

    @property
    def results(self) -> Path:
        """The results of all runs, written last."""
        return self.path / RESULTS

    @property
    def report(self) -> Path:
        """The page to look at."""
        return self.path / REPORT

    def weights(self, variant: str, seed: int) -> Path:
        """The trained weights of one run."""
        return self.path / f"model_{variant}_seed{seed}.safetensors"

    def run(self, variant: str, seed: int) -> Path:
        """The result of one run, written as soon as it is finished."""
        return self.path / RUNS / f"{variant}_seed{seed}.json"

    def finished_run(self, variant: str, seed: int) -> RunResult | None:
        """The result of one run from an earlier start, or None.

        Raises:
            ValueError: If the file is damaged, or is of another job or another run.
        """
        path = self.run(variant, seed)
        if not path.exists():
            return None
        run = load_run(path, job=self.job)
        if (run.variant, run.seed) != (variant, seed):
            raise ValueError(f"expected {variant}, seed {seed} in {path}, got {run.variant}, seed {run.seed}")
        return run

    def keep_run(self, run: RunResult) -> None:
        """Write the result of one run.

        Raises:
            OSError: If the folder cannot be written.
        """
        save_run(run, self.run(run.variant, run.seed), job=self.job)


@contextmanager
def open_folder(
    path: Path | None, settings: DemoSettings, *, versions: dict[str, str], overwrite: bool = False
) -> Iterator[DemoFolder]:
    """A folder ready for the job, and for this job alone until the block is left.

    Args:
        path: The folder; None for a new one under `runs/`, named after the time.
        settings: What the job is.
        versions: Of the libraries; runs of different versions are not mixed.
        overwrite: Take away what a demo has left in the folder. Other files stay.

    Raises:
        FileExistsError: If the folder holds anything but the same unfinished job, or with `overwrite`
            anything but a demo; or if it is a file.
        BlockingIOError: If another demo is at work in it.
        OSError: If it cannot be made or written.
    """
    job: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": "demo-job",
        "settings": settings.to_json(),
        "versions": versions,
    }
    if path is None:
        path = _new_dated_folder()
    # before the lock, so that nothing is put into a folder of somebody else
    _check(path, job, overwrite=overwrite)
    with _alone(path):
        # and again: until now another demo may have been at work
        _check(path, job, overwrite=overwrite)
        _remove(path, _LEFTOVER)
        continued = (path / JOB).exists() and not overwrite
        if overwrite:
            _remove(path, _MADE)
        if not continued:
            save_json(job, path / JOB)
        fingerprint = hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()
        yield DemoFolder(path, continued, fingerprint)


def _new_dated_folder() -> Path:
    name = datetime.now().strftime("demo-%Y%m%d-%H%M%S")
    path = Path("runs") / name
    number = 2
    while True:
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            path = Path("runs") / f"{name}-{number}"
            number += 1
        except OSError as error:
            raise OSError(f"could not write into {path}: {error.strerror}") from error
        else:
            return path


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the lock of a folder, which is made; the system lets go of it however this process ends."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise OSError(f"could not write into {path}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise BlockingIOError(
            f"another demo is at work in {path}; wait for it to end or name another folder"
        ) from None
    except OSError as error:
        os.close(lock)
        # some network file systems know no locks
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP):
            raise OSError(f"could not lock {path / LOCK}: {error.strerror}") from error
        yield
        return
    try:
        yield
    finally:
        os.close(lock)


def _check(path: Path, job: dict[str, Any], *, overwrite: bool) -> None:
    if not os.path.lexists(path):
        return
    if not path.is_dir():
        raise FileExistsError(
            f"expected a folder for the results, got the file {path}; name another with --out"
        )
    entries = list(_entries(path))
    if all(name == LOCK or re.fullmatch(_LEFTOVER, name) for name in entries):
        return
    if not (path / JOB).exists():
        wanted = "an earlier demo to overwrite" if overwrite else "an empty folder"
        raise FileExistsError(f"expected {wanted}, but {path} holds other files; name another folder")
    found = _read_job(path / JOB)
    _check_kinds(path, entries)
    if not overwrite:
        _check_same_job(path, found, job)


def _read_job(path: Path) -> dict[str, Any]:
    try:
        found = load_json(path)
    except ValueError as error:
        raise FileExistsError(f"{error}; name another folder") from None
    parts = (found.get("settings"), found.get("versions"))
    if found.get("kind") != "demo-job" or not all(isinstance(part, dict) for part in parts):
        raise FileExistsError(
            f"expected the job of a demo in {path}, got something else; name another folder"
        )
    return found


def _check_kinds(path: Path, entries: list[str]) -> None:
    """What a demo writes are files in true folders: a link elsewhere would be written through."""
    if (path / RUNS).is_symlink() or ((path / RUNS).exists() and not (path / RUNS).is_dir()):
        raise FileExistsError(
            f"expected {path / RUNS} to be a folder, got a file or a link; name another folder"
        )
    for name in entries:
        if (name == JOB or re.fullmatch(_MADE, name)) and (path / name).is_dir():
            raise FileExistsError(f"expected {path / name} to be a file, got a folder; name another folder")


def _check_same_job(path: Path, found: dict[str, Any], job: dict[str, Any]) -> None:
    if (path / RESULTS).exists():
        raise FileExistsError(
            f"expected an empty folder, but {path} holds a finished demo (its page is "
            f"{path / REPORT}); {_ADVICE}"
        )
    differing = [
        f"{part} {name}"
        for part in ("settings", "versions")
        for name, value in job[part].items()
        if found[part].get(name) != value
    ]
    if found.get("schema") != SCHEMA:
        differing.append("schema")
    if differing:
        raise FileExistsError(
            f"expected the same unfinished job in {path}, got one that differs in "
            f"{', '.join(differing)}; {_ADVICE}"
        )


def _entries(path: Path) -> Iterator[str]:
    """What lies in a folder and in its `runs/`, by path in the folder; a linked `runs` is not entered."""
    for entry in path.iterdir():
        if entry.name == RUNS and entry.is_dir() and not entry.is_symlink():
            yield from (f"{RUNS}/{run.name}" for run in entry.iterdir())
        else:
            yield entry.name


def _remove(path: Path, pattern: str) -> None:
    """Take away the files of that pattern, nothing else, and `runs/` where nothing is left in it."""
    try:
        for name in list(_entries(path)):
            if re.fullmatch(pattern, name):
                (path / name).unlink()
        runs = path / RUNS
        if runs.is_dir() and not runs.is_symlink() and not any(runs.iterdir()):
            runs.rmdir()
    except OSError as error:
        raise OSError(f"could not remove what an earlier demo left in {path}: {error.strerror}") from error
