"""The checkpoints of a run: saved while it goes on, found again whatever happened, rotated, the best kept."""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save, save

from tapadl.data.atomic import write_atomically
from tapadl.training.checkpoint_files import (
    SUMS,
    CheckpointReader,
    CheckpointWriter,
    DamagedCheckpointError,
    check_files,
    is_whole,
    read_plain,
)
from tapadl.training.state import TrainingState, flatten, unflatten

BEST = "best.json"
SCHEMA = 1


class Checkpoints:
    """The folder of a run's checkpoints, `step-00000100/` and so on, and `best.json`, which names the best.

    Made, used and closed by all processes alike, after they have joined.

    Args:
        folder: Made where it is not there.
        identity: What the run is, in named parts, as plain data: a checkpoint of another is refused.
        keep: Newest checkpoints to keep; the best stays as well.
        asynchronous: Write while training goes on. The tensors are copied before `save` returns.
        tell: Takes sentences about what was found and passed over.
    """

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, Any],
        *,
        keep: int = 3,
        asynchronous: bool = True,
        tell: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self._folder = folder
        self._identity = json.loads(json.dumps(identity))
        self._keep = keep
        self._asynchronous = asynchronous
        self._tell = tell
        self._first = dist.get_rank() == 0
        # Saving exchanges plans in a thread of its own, so it may not share a group with the training.
        self._group = cast(dist.ProcessGroup, dist.new_group(backend="gloo"))
        on_gpu = torch.cuda.is_available()
        self._stager = DefaultStager(
            StagingOptions(
                use_pinned_memory=on_gpu,
                use_shared_memory=False,
                use_async_staging=False,
                use_non_blocking_copy=on_gpu,
            )
        )
        self._pending: tuple[Path, Future[Any]] | None = None
        self._best: dict[str, Any] = {}
        self.saved_step: int | None = None
        """Of the newest checkpoint, which may still be on its way to the disk."""

    def save(self, state: TrainingState) -> None:
        """Save a run between two steps; waits for the save before.

        Raises:
            OSError: If this one, or the one before, could not be written; what was saved earlier stays.
        """
        self.wait()
        folder = self._folder / f"step-{state.step:08d}"
        tensors, plain = flatten(state.tree())
        content = {
            "schema": SCHEMA,
            "world_size": dist.get_world_size(),
            "identity": self._identity,
            "state": plain,
        }
        writer = CheckpointWriter(folder, content)
        try:
            if self._asynchronous:
                future = async_save(
                    tensors, storage_writer=writer, process_group=self._group, async_stager=self._stager
                )
                assert isinstance(future, Future)
                self._pending = folder, future
            else:
                save(tensors, storage_writer=writer, process_group=self._group)
                self._rotate()
        except CheckpointException as error:
            self._fail(folder, error)
        self.saved_step = state.step

    def wait(self) -> None:
        """Until the last save is on the disk.

        Raises:
            OSError: If it could not be written.
        """
        if self._pending is None:
            return
        folder, future = self._pending
        self._pending = None
        try:
            future.result()
        except CheckpointException as error:
            self._fail(folder, error)
        self._rotate()

    def keep_best(self, best: Mapping[str, Any]) -> None:
        """Remember which checkpoint is the best; it is on the disk when this returns.

        Args:
            best: Its "step", "score", and what else is known of it; nothing if none is.
        """
        self.wait()
        self._best = dict(best)
        if self._first:
            self._write_best()
            self._rotate()

    def restore(self, state: TrainingState) -> bool:
        """Bring a run to the newest checkpoint that holds what was written.

        A folder that a killed process left half written is passed over, a damaged one too, with a sentence;
        they are taken away.

        Args:
            state: With a model, an optimizer and the rest as the run made them at its beginning.

        Returns:
            Whether there was one.

        Raises:
            ValueError: If it is of another run or another model.
            RuntimeError: If there are some and all are damaged.
        """
        damages: list[str] = []
        for name in reversed(self._seen_by_first()):
            folder = self._folder / name
            damage = self._damage(folder)
            if damage is not None:
                damages.append(f"{folder}: {damage}")
                continue
            for sentence in damages:
                self._tell(f"passed over a damaged checkpoint, {sentence}")
            self._load(folder, state)
            self.saved_step = state.step
            self._best = state.best
            if self._first:
                self._remove(path for path in self._all() if path.name > name)
                self._write_best()
            return True
        if damages:
            raise RuntimeError(
                f"expected a checkpoint to go on with in {self._folder}, but all are damaged "
                f"({'; '.join(damages)}); remove that folder to begin anew"
            )
        return False

    def close(self) -> None:
        """Leave the group of processes; a save under way is waited for, its failure told no more."""
        if self._pending is not None:
            self._pending[1].exception()
            self._pending = None
        self._stager.close()
        dist.destroy_process_group(self._group)

    def _damage(self, folder: Path) -> str | None:
        try:
            check_files(folder, dist.get_rank(), dist.get_world_size())
            damage = None
        except DamagedCheckpointError as error:
            damage = str(error)
        damages: list[str | None] = [None] * dist.get_world_size()
        dist.all_gather_object(damages, damage, group=self._group)
        return next((found for found in damages if found is not None), None)

    def _load(self, folder: Path, state: TrainingState) -> None:
        content = read_plain(folder)
        if content["schema"] != SCHEMA:
            raise ValueError(
                f"expected a checkpoint of schema {SCHEMA} in {folder}, got {content['schema']}; finish the "
                f"run with the version of tapadl that began it"
            )
        self._check_identity(folder, content["identity"])
        if content["world_size"] != dist.get_world_size():
            self._tell(
                f"{folder.name} was saved by {content['world_size']} processes, now there are "
                f"{dist.get_world_size()}: the run goes on, but not bit for bit as it would have"
            )
        reader = CheckpointReader(folder)
        saved = reader.read_metadata().state_dict_metadata
        own, _ = flatten(state.tree())
        _check_model(folder, own, saved)
        tensors = {
            path: own[path]
            if path in own and own[path].shape == kept.size and own[path].dtype == kept.properties.dtype
            else state.template(path, kept.size, kept.properties.dtype)
            for path, kept in saved.items()
            if isinstance(kept, TensorStorageMetadata)
        }
        try:
            load(tensors, storage_reader=reader, process_group=self._group)
        except CheckpointException as error:
            cause = _cause(error)
            if isinstance(cause, OSError):
                raise OSError(f"could not read the checkpoint {folder}: {cause.strerror}") from cause
            # its sums are right, so somebody else has written it
            raise ValueError(
                f"expected tensors and nothing else in {folder}, got {type(cause).__name__}; name another "
                f"folder to begin anew"
            ) from cause
        state.load(unflatten(content["state"], tensors))

    def _check_identity(self, folder: Path, saved: Mapping[str, Any]) -> None:
        there, now = dict(_dotted(saved)), dict(_dotted(self._identity))
        differing = [
            f"{key} is {there.get(key)!r} there and {now.get(key)!r} now"
            for key in {**there, **now}
            if there.get(key) != now.get(key)
        ]
        if differing:
            raise ValueError(
                f"expected a checkpoint of this run in {folder}, got one of another: {', '.join(differing)}; "
                f"name another folder to begin anew"
            )

    def _fail(self, folder: Path, error: CheckpointException) -> NoReturn:
        if self._first:
            shutil.rmtree(folder, ignore_errors=True)
        whole = self._whole()
        kept = f"the last good one is {whole[-1].name}" if whole else "there is none before it"
        cause = _cause(error)
        reason = (isinstance(cause, OSError) and cause.strerror) or str(cause)
        kind = OSError if isinstance(cause, OSError) else RuntimeError
        raise kind(f"could not write the checkpoint {folder}: {reason}; {kept}") from cause

    def _all(self) -> list[Path]:
        return sorted(self._folder.glob("step-*"))

    def _whole(self) -> list[Path]:
        return [path for path in self._all() if is_whole(path)]

    def _rotate(self) -> None:
        if self._first:
            kept = {path.name for path in self._whole()[-self._keep :]}
            if self._best:
                kept.add(f"step-{self._best['step']:08d}")
            self._remove(path for path in self._all() if path.name not in kept)

    def _remove(self, folders: Iterable[Path]) -> None:
        for folder in folders:
            # killed on the way, it leaves a checkpoint that is not whole, not a damaged one
            (folder / SUMS).unlink(missing_ok=True)
            shutil.rmtree(folder)

    def _write_best(self) -> None:
        path = self._folder / BEST
        if self._best:
            content = {"folder": f"step-{self._best['step']:08d}", **self._best}
            write_atomically(path, json.dumps(content, indent=2).encode() + b"\n")
        else:
            path.unlink(missing_ok=True)

    def _seen_by_first(self) -> list[str]:
        names = [path.name for path in self._whole()]
        dist.broadcast_object_list(seen := [names], src=0, group=self._group)
        return seen[0]


def _cause(error: CheckpointException) -> BaseException:
    """What a process failed with; of several the one that the disk is to blame for."""
    causes = [cause for cause, _ in error.failures.values()]
    return next((cause for cause in causes if isinstance(cause, OSError)), causes[0])


def _check_model(folder: Path, own: Mapping[str, torch.Tensor], saved: Mapping[str, Any]) -> None:
    parts = ("model.", "average.")
    ours = {path: tuple(tensor.shape) for path, tensor in own.items() if path.startswith(parts)}
    theirs = {path: tuple(kept.size) for path, kept in saved.items() if path.startswith(parts)}
    differing = [path for path in {**theirs, **ours} if ours.get(path) != theirs.get(path)]
    if differing:
        shown = ", ".join(
            f"{path.removeprefix('model.')} ({theirs.get(path, 'none')} there, {ours.get(path, 'none')} here)"
            for path in differing[:3]
        )
        raise ValueError(
            f"expected a checkpoint of this model in {folder}, got one of another: {len(differing)} tensors "
            f"differ, such as {shown}"
        )


def _dotted(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
