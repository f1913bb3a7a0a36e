"""The output folder of a job: refused, continued or started."""

import errno
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tapadl.data.atomic import write_atomically

JOB = "job.json"
LOCK = ".lock"

# Locks that this process holds. A forked process, such as a loader's, would go on holding them when this one
# is killed, and the job could not be gone on with at once.
_held: set[int] = set()


def _let_go_of_inherited() -> None:
    for lock in _held:
        os.close(lock)
    _held.clear()


os.register_at_fork(after_in_child=_let_go_of_inherited)


@dataclass(frozen=True)
class JobKind:
    """What jobs of a kind leave in their folder.

    Args:
        name: What messages call the job, such as "demo".
        schema: Of its files; jobs of another schema are not gone on with.
        parts: The folder inside that holds what is finished of an unfinished job.
        made: Pattern of the files it makes, by path in the folder.
        finished: The file that is written last.
        page: The file to look at.
        advice: What to do where a folder holds another job.
    """

    name: str
    schema: int
    parts: str
    made: str
    finished: str
    page: str
    advice: str = "name another folder, or pass --overwrite to replace what is there"

    @property
    def leftover(self) -> str:
        """Pattern of what `write_atomically` leaves of such a file when it is killed."""
        return rf"(?:{self.parts}/)?\.[^/]+\.\d+\.tmp"


@dataclass(frozen=True)
class JobFolder:
    """A folder that holds one job.

    Args:
        path: The folder, which exists.
        continued: Whether it already held a part of the same job.
        fingerprint: What tells the job from others.
    """

    path: Path
    continued: bool
    fingerprint: str


@contextmanager
def open_job_folder(
    path: Path | None, kind: JobKind, job: Mapping[str, Mapping[str, Any]], *, overwrite: bool = False
) -> Iterator[JobFolder]:
    """A folder ready for the job, and for this job alone until the block is left.

    Args:
        path: The folder; None for a new one under `runs/`, named after the time.
        kind: Of the job.
        job: What the job is, in named parts such as "settings" and "versions", as plain data; what differs in
            one of them is another job.
        overwrite: Take away what such a job has left in the folder. Other files stay.

    Raises:
        FileExistsError: If the folder holds anything but the same unfinished job, or with `overwrite`
            anything but a job of this kind; or if it is a file.
        BlockingIOError: If another one is at work in it.
        OSError: If it cannot be made or written.
    """
    content = json.loads(json.dumps({"schema": kind.schema, "kind": f"{kind.name}-job", **job}))
    if path is None:
        path = _new_dated_folder(kind.name)
    # before the lock, so that nothing is put into a folder of somebody else
    _check(path, kind, content, overwrite=overwrite)
    with _alone(path, kind.name):
        # and again: until now another one may have been at work
        _check(path, kind, content, overwrite=overwrite)
        _remove(path, kind, kind.leftover)
        continued = (path / JOB).exists() and not overwrite
        if overwrite:
            _remove(path, kind, kind.made)
        if not continued:
            write_atomically(path / JOB, (json.dumps(content, indent=1) + "\n").encode())
        fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        yield JobFolder(path, continued, fingerprint)


def _new_dated_folder(name: str) -> Path:
    dated = datetime.now().strftime(f"{name}-%Y%m%d-%H%M%S")
    path = Path("runs") / dated
    number = 2
    while True:
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            path = Path("runs") / f"{dated}-{number}"
            number += 1
        except OSError as error:
            raise OSError(f"could not write into {path}: {error.strerror}") from error
        else:
            return path


@contextmanager
def _alone(path: Path, name: str) -> Iterator[None]:
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
            f"another {name} is at work in {path}; wait for it to end or name another folder"
        ) from None
    except OSError as error:
        os.close(lock)
        # some network file systems know no locks
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP):
            raise OSError(f"could not lock {path / LOCK}: {error.strerror}") from error
        yield
        return
    _held.add(lock)
    try:
        yield
    finally:
        if lock in _held:
            _held.remove(lock)
            os.close(lock)


def _check(path: Path, kind: JobKind, job: dict[str, Any], *, overwrite: bool) -> None:
    if not os.path.lexists(path):
        return
    if not path.is_dir():
        raise FileExistsError(f"expected a folder for the results, got the file {path}; name another")
    entries = list(_entries(path, kind))
    if all(name == LOCK or re.fullmatch(kind.leftover, name) for name in entries):
        return
    if not (path / JOB).exists():
        wanted = f"an earlier {kind.name} to overwrite" if overwrite else "an empty folder"
        raise FileExistsError(f"expected {wanted}, but {path} holds other files; name another folder")
    found = _read_job(path / JOB, kind, job)
    _check_types(path, kind, entries)
    if not overwrite:
        _check_same_job(path, kind, found, job)


def _read_job(path: Path, kind: JobKind, job: dict[str, Any]) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        raise FileExistsError(
            f"expected JSON in {path}, but it is damaged or cut short; name another folder"
        ) from None
    parts = (part for part, value in job.items() if isinstance(value, dict))
    if (
        not isinstance(found, dict)
        or found.get("kind") != job["kind"]
        or not all(isinstance(found.get(part), dict) for part in parts)
    ):
        raise FileExistsError(
            f"expected the job of a {kind.name} in {path}, got something else; name another folder"
        )
    return found


def _check_types(path: Path, kind: JobKind, entries: list[str]) -> None:
    """What a job writes are files in true folders: a link elsewhere would be written through."""
    parts = path / kind.parts
    if parts.is_symlink() or (parts.exists() and not parts.is_dir()):
        raise FileExistsError(f"expected {parts} to be a folder, got a file or a link; name another folder")
    for name in entries:
        if (name == JOB or re.fullmatch(kind.made, name)) and (path / name).is_dir():
            raise FileExistsError(f"expected {path / name} to be a file, got a folder; name another folder")


def _check_same_job(path: Path, kind: JobKind, found: dict[str, Any], job: dict[str, Any]) -> None:
    if (path / kind.finished).exists():
        raise FileExistsError(
            f"expected an empty folder, but {path} holds a finished {kind.name} (its page is "
            f"{path / kind.page}); {kind.advice}"
        )
    differing = [
        f"{part} {name}"
        for part, values in job.items()
        if isinstance(values, dict)
        for name, value in values.items()
        if found[part].get(name) != value
    ]
    if found.get("schema") != kind.schema:
        differing.append("schema")
    if differing:
        raise FileExistsError(
            f"expected the same unfinished job in {path}, got one that differs in "
            f"{', '.join(differing)}; {kind.advice}"
        )


def _entries(path: Path, kind: JobKind) -> Iterator[str]:
    """What lies in a folder and in that of its parts, by path in the folder; a linked one is not entered."""
    for entry in path.iterdir():
        if entry.name == kind.parts and entry.is_dir() and not entry.is_symlink():
            yield from (f"{kind.parts}/{part.name}" for part in entry.iterdir())
        else:
            yield entry.name


def _remove(path: Path, kind: JobKind, pattern: str) -> None:
    """Take away the files of that pattern, nothing else, and the folder of parts where it is empty then."""
    try:
        for name in list(_entries(path, kind)):
            if re.fullmatch(pattern, name):
                (path / name).unlink()
        parts = path / kind.parts
        if parts.is_dir() and not parts.is_symlink() and not any(parts.iterdir()):
            parts.rmdir()
    except OSError as error:
        raise OSError(
            f"could not remove what an earlier {kind.name} left in {path}: {error.strerror}"
        ) from error
