"""What was counted of images in a cell: kept per image, so that models can be compared in pairs."""

import base64
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tapadl.data.atomic import write_atomically
from tapadl.evaluation.plan import Cell

Values = npt.NDArray[Any]

# Totals of more numbers are compressed: a matrix of 150 classes would be the most of a file.
_LISTED = 512


@dataclass(frozen=True, eq=False)
class Record:
    """Counts of the images, or sequences, of one cell.

    Args:
        cell: Which condition.
        items: For every count one value an image: "correct" (bool), or of a sequence "flips" and
            "distance" (unsigned integers); or one array an image, such as "pixels" of each class.
        totals: Counts that belong to all images together: name to an integer array.
    """

    cell: Cell
    items: Mapping[str, Values]
    totals: Mapping[str, Values]

    @property
    def count(self) -> int:
        """Images, or sequences."""
        return len(next(iter(self.items.values())))

    @classmethod
    def join(cls, records: Sequence[Self]) -> Self:
        """The record of all images of several, in their order."""
        first = records[0]
        return cls(
            first.cell,
            {name: np.concatenate([record.items[name] for record in records]) for name in first.items},
            {name: np.sum([record.totals[name] for record in records], axis=0) for name in first.totals},
        )

    def to_json(self) -> dict[str, Any]:
        """As plain data; the values of the images in base64, truth values as bits, arrays compressed."""
        return {
            "condition": self.cell.condition,
            "severity": self.cell.severity,
            "count": self.count,
            "items": {name: _pack(values) for name, values in self.items.items()},
            "totals": {
                name: values.tolist() if values.size <= _LISTED else _pack_array(values)
                for name, values in self.totals.items()
            },
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """What `to_json` gave.

        Raises:
            KeyError, TypeError, ValueError: If the content is anything else.
        """
        if not content["items"]:
            raise ValueError(f"no counts of the images in {content['condition']}")
        return cls(
            Cell(str(content["condition"]), int(content["severity"])),
            {name: _unpack(packed, content["count"]) for name, packed in content["items"].items()},
            {
                name: _unpack_array(values)
                if isinstance(values, dict)
                else np.asarray(values, dtype=np.int64)
                for name, values in content["totals"].items()
            },
        )


def _pack(values: Values) -> dict[str, Any]:
    if values.ndim > 1:
        return _pack_array(values)
    content = np.packbits(values) if values.dtype == bool else values
    little = content.astype(content.dtype.newbyteorder("<"))
    return {"dtype": values.dtype.name, "base64": base64.b64encode(little.tobytes()).decode()}


def _pack_array(values: Values) -> dict[str, Any]:
    little = values.astype(values.dtype.newbyteorder("<"))
    packed = base64.b64encode(zlib.compress(little.tobytes())).decode()
    return {"dtype": values.dtype.name, "shape": list(values.shape), "zlib": packed}


def _unpack_array(packed: Mapping[str, Any]) -> Values:
    if packed["dtype"] not in ("uint32", "int64"):
        raise ValueError(f"expected arrays of uint32 or int64, got {packed['dtype']!r}")
    dtype = np.dtype(packed["dtype"])
    shape = [int(length) for length in packed["shape"]]
    size = math.prod(shape) * dtype.itemsize
    try:
        # no more than was promised, whatever a file unfolds to
        content = zlib.decompressobj().decompress(base64.b64decode(packed["zlib"], validate=True), size + 1)
    except (zlib.error, OverflowError) as error:
        raise ValueError(f"expected a compressed array, got {error}") from None
    if min(shape, default=0) < 1 or len(content) != size:
        raise ValueError(f"expected an array of shape {tuple(shape)}, got {len(content)} bytes")
    values: Values = np.frombuffer(content, dtype=dtype.newbyteorder("<")).reshape(shape).astype(dtype)
    return values


def _unpack(packed: Mapping[str, Any], count: int) -> Values:
    if "zlib" in packed:
        values = _unpack_array(packed)
        if len(values) != count:
            raise ValueError(f"expected counts of {count} images, got {len(values)}")
        return values
    content = base64.b64decode(packed["base64"], validate=True)
    if packed["dtype"] == "bool":
        bits = np.frombuffer(content, dtype=np.uint8)
        if len(bits) != (count + 7) // 8:
            raise ValueError(f"expected bits of {count} images, got {8 * len(bits)}")
        return np.unpackbits(bits, count=count).astype(bool)
    if packed["dtype"] not in ("uint8", "uint16"):
        raise ValueError(f"expected counts as bool, uint8 or uint16, got {packed['dtype']!r}")
    values = np.frombuffer(content, dtype=np.dtype(packed["dtype"]).newbyteorder("<"))
    if len(values) != count:
        raise ValueError(f"expected counts of {count} images, got {len(values)}")
    return values


def join_cells(cells: Sequence[Cell], files: Sequence["UnitFile"]) -> list[Record]:
    """The record of each cell over all units of a part.

    Args:
        cells: Of the part.
        files: Of its units, in their order.

    Raises:
        RuntimeError: If a record is missing.
    """
    for cell in cells:
        missing = [file.path.name for file in files if cell not in file.records]
        if missing:
            raise RuntimeError(f"expected records of {cell.key} in {missing[0]}, got none; run it again")
    return [Record.join([file.records[cell] for file in files]) for cell in cells]


class UnitFile:
    """The records of a unit, a line each, written as they are made.

    Killed at any moment, it keeps every line that was finished; a line cut short does not count.

    Args:
        path: The file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[Cell, Record] = {}
        if path.exists():
            self._read()

    def _read(self) -> None:
        content = self.path.read_bytes()
        whole, _, torn = content.rpartition(b"\n")
        try:
            for line in whole.splitlines():
                record = Record.from_json(json.loads(line))
                self.records[record.cell] = record
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"expected records of an evaluation in {self.path}, got a damaged line ({error}); "
                "remove the file, and its images are evaluated again"
            ) from None
        if torn:
            write_atomically(self.path, whole + b"\n" if whole else b"")

    def add(self, record: Record) -> None:
        """Keep one more record.

        Raises:
            OSError: If the file cannot be written; one sentence that names it.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(json.dumps(record.to_json()).encode() + b"\n")
        except OSError as error:
            raise OSError(f"could not write {self.path}: {error.strerror}") from error
        self.records[record.cell] = record
