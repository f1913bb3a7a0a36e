"""JSON objects in files: all of one or nothing, and no numbers that JSON does not know."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tapadl.data.atomic import write_atomically


def save_json(content: Mapping[str, Any], path: str | Path) -> None:
    """Write a JSON object, indented, all of it or nothing.

    Raises:
        OSError: If the file cannot be written.
        ValueError: If a number is NaN or infinite, which JSON does not know.
    """
    write_atomically(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def load_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds anything else; the message names it.
    """
    try:
        content = json.loads(Path(path).read_bytes(), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise FileNotFoundError(f"expected a result at {path}, but there is no such file") from None
    except IsADirectoryError:
        raise ValueError(f"expected a file at {path}, got a folder") from None
    except OSError as error:
        raise OSError(f"could not read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"expected JSON in {path}, but it is damaged or cut short: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"expected a JSON object in {path}, got a {type(content).__name__}")
    return content


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")
