"""The files of one checkpoint: torch.distributed.checkpoint's, with checksums and without foreign code.

step-00000100/
    __0_0.distcp ...    the tensors, a file or more for each process
    .metadata           which tensor stands where
    checkpoint.json     all that is not a tensor
    SHA256SUMS          of all of them, as `sha256sum --check` reads it; written last: the checkpoint is whole
"""

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult

from tapadl.data.atomic import write_atomically

METADATA = ".metadata"
PLAIN = "checkpoint.json"
SUMS = "SHA256SUMS"


class DamagedCheckpointError(Exception):
    """A checkpoint that does not hold what was written."""


@dataclass(frozen=True)
class _Summed(WriteResult):
    sha256: str


class CheckpointWriter(FileSystemWriter):
    """Writes a checkpoint; every process sums its own files, the first one adds what makes it whole.

    Args:
        folder: Of the checkpoint.
        plain: What stands in it besides tensors.
    """

    def __init__(self, folder: Path, plain: Mapping[str, Any]) -> None:
        super().__init__(folder)
        self._folder = folder
        self._plain = json.dumps(plain).encode()

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Before any process writes, the first one takes away what a killed one left of this checkpoint."""
        super().set_up_storage_writer(is_coordinator, *args, **kwargs)
        if is_coordinator and self._folder.exists():
            shutil.rmtree(self._folder)

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> torch.futures.Future[list[WriteResult]]:
        """The tensors of this process."""
        written = super().write_data(plan, planner).wait()
        names = {result.storage_data.relative_path for result in written}
        sums = {name: _sha256(self._folder / name) for name in names}
        summed: torch.futures.Future[list[WriteResult]] = torch.futures.Future()
        summed.set_result(
            [
                _Summed(
                    result.index,
                    result.size_in_bytes,
                    result.storage_data,
                    sums[result.storage_data.relative_path],
                )
                for result in written
            ]
        )
        return summed

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """What the first process writes once all have written."""
        super().finish(metadata, results)
        write_atomically(self._folder / PLAIN, self._plain)
        sums = {
            result.storage_data.relative_path: result.sha256
            for of_process in results
            for result in of_process
            if isinstance(result, _Summed)
        }
        sums |= {name: _sha256(self._folder / name) for name in (METADATA, PLAIN)}
        lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
        write_atomically(self._folder / SUMS, lines.encode())


class CheckpointReader(FileSystemReader):
    """Reads a checkpoint; its metadata, a pickle, may name nothing but what describes tensors."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Which tensor stands where.

        Raises:
            ValueError: If it names anything else.
        """
        path = Path(self.path) / METADATA
        with path.open("rb") as file:
            try:
                metadata: Metadata = _MetadataUnpickler(file).load()
            except pickle.UnpicklingError as error:
                raise ValueError(f"expected the description of tensors in {path}, got {error}") from None
        return metadata


class _MetadataUnpickler(pickle.Unpickler):
    _ALLOWED = frozenset(
        (
            *(
                f"torch.distributed.checkpoint.metadata.{name}"
                for name in (
                    "ChunkStorageMetadata",
                    "Metadata",
                    "MetadataIndex",
                    "StorageMeta",
                    "TensorProperties",
                    "TensorStorageMetadata",
                    "_MEM_FORMAT_ENCODING",
                )
            ),
            "torch.distributed.checkpoint.filesystem._StorageInfo",
            "torch.serialization._get_layout",
            "torch.Size",
        )
    )

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "pathlib" and name in ("PosixPath", "WindowsPath"):
            return Path
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if not is_dtype and f"{module}.{name}" not in self._ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return super().find_class(module, name)


def is_whole(folder: Path) -> bool:
    """Whether all of a checkpoint was written."""
    return (folder / SUMS).is_file() and (folder / METADATA).is_file()


def check_files(folder: Path, rank: int, world_size: int) -> None:
    """Compare the files of a checkpoint with their sums, each process a share of them.

    Raises:
        DamagedCheckpointError: If one is missing or other than it was written.
    """
    try:
        lines = (folder / SUMS).read_text("ascii").splitlines()
        sums = [line.split("  ", 1) for line in lines]
        names = {name for _, name in sums}
        if not {METADATA, PLAIN} <= names or not names.isdisjoint({"", os.curdir, os.pardir}):
            raise DamagedCheckpointError(f"{SUMS} is damaged")
        for digest, name in sums[rank::world_size]:
            if _sha256(folder / name) != digest:
                raise DamagedCheckpointError(f"{name} is damaged")
    except FileNotFoundError as error:
        raise DamagedCheckpointError(f"{Path(error.filename).name} is missing") from None
    except (UnicodeDecodeError, ValueError):
        raise DamagedCheckpointError(f"{SUMS} is damaged") from None


def read_plain(folder: Path) -> dict[str, Any]:
    """What stands in a checkpoint besides tensors."""
    content: dict[str, Any] = json.loads((folder / PLAIN).read_bytes())
    return content


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
