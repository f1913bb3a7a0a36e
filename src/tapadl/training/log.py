"""The log of a run: one JSON object a line."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tapadl.data.atomic import write_atomically


class RunLog:
    """`log.jsonl`: every line has a "step" and a "kind".

    Args:
        path: Of the file; made with the first line.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     log = RunLog(Path(folder) / "log.jsonl")
        ...     log.write("train", 10, {"loss": 0.5})
        ...     log.lines()
        [{'step': 10, 'kind': 'train', 'loss': 0.5}]
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Add a line; numbers that are not finite become null.

        Raises:
            OSError: If it cannot be written; one sentence that names the file.
        """
        line = {"step": step, "kind": kind, **{name: _finite(value) for name, value in values.items()}}
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")
        except OSError as error:
            raise OSError(f"could not write {self._path}: {error.strerror}") from error

    def lines(self) -> list[dict[str, Any]]:
        """All whole lines; one that a killed process left half written is not among them."""
        if not self._path.exists():
            return []
        lines = []
        for text in self._path.read_text("utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue
            if isinstance(line, dict) and {"step", "kind"} <= set(line):
                lines.append(line)
        return lines

    def go_back(self, step: int) -> None:
        """Drop what was logged after the checkpoint of a step, which is saved before its evaluation.

        Raises:
            OSError: If the file cannot be written.
        """
        if not self._path.exists():
            return
        kept = [
            line
            for line in self.lines()
            if line["step"] < step or (line["step"] == step and line["kind"] != "evaluation")
        ]
        write_atomically(self._path, [f"{json.dumps(line)}\n".encode() for line in kept])


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
