"""Writing files so that a reader sees all of a file or nothing."""

import errno
import os
import re
from collections.abc import Iterable
from pathlib import Path

_HALF_WRITTEN = re.compile(r"\..+\.\d+\.tmp")
_NO_SPACE = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


def write_atomically(path: str | Path, content: bytes | Iterable[bytes]) -> None:
    """Write `content` to a temporary file beside `path`, then rename it to `path`.

    Killed at any moment, it leaves the old file or the new one, never half of one. Parent folders are made.

    Args:
        path: The file to write or replace.
        content: All of its bytes, in one piece or in several.

    Raises:
        OSError: If the folder cannot be written or the disk is full; one sentence that names `path`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_atomically(Path(folder) / "a.txt", b"all")
        ...     (Path(folder) / "a.txt").read_bytes()
        b'all'
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.writelines((content,) if isinstance(content, bytes) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True) if path.parent.is_dir() else None
        advice = "; free some space there or name another folder" if error.errno in _NO_SPACE else ""
        raise OSError(f"could not write {path}: {error.strerror}{advice}") from error


def remove_half_written(folder: Path) -> None:
    """Take away what `write_atomically` left below a folder when it was killed; links are not followed."""
    for inside, _, names in os.walk(folder):
        for name in names:
            if _HALF_WRITTEN.fullmatch(name):
                os.unlink(os.path.join(inside, name))
