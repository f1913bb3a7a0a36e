"""The log, also for TensorBoard, Weights & Biases or Trackio: each imported when it is asked for."""

import importlib
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from tapadl.data.atomic import write_atomically
from tapadl.training.settings import LoggingSettings

RUN_ID = ".run-id"


class Tracker(Protocol):
    """Where numbers of a run go besides its own log."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step, by name, such as "train/loss"."""

    def close(self) -> None:
        """No more will come."""


def open_trackers(
    settings: LoggingSettings, folder: Path, config: Mapping[str, Any], step: int = 0
) -> list[Tracker]:
    """The trackers that the settings ask for.

    Args:
        settings: Which ones.
        folder: Of the run; a file in it says which run it is.
        config: What the run is, as plain data.
        step: Where it begins or goes on.

    Raises:
        RuntimeError: If one is asked for that is not installed.
    """
    trackers: list[Tracker] = []
    if settings.tensorboard:
        trackers.append(_TensorBoard(folder, step))
    if settings.wandb is not None:
        wandb = _imported("wandb", "logging.wandb")
        options = {"id": _run_id(folder), "resume": "allow", "dir": str(folder)}
        trackers.append(_Run(wandb, project=settings.wandb, name=folder.name, config=dict(config), **options))
    if settings.trackio is not None:
        trackio = _imported("trackio", "logging.trackio")
        # a name is all that tells its runs apart
        options = {"name": _run_id(folder), "resume": "allow"}
        trackers.append(_Run(trackio, project=settings.trackio, config=dict(config), **options))
    return trackers


class _TensorBoard:
    def __init__(self, folder: Path, step: int) -> None:
        _imported("tensorboard", "logging.tensorboard")
        module = importlib.import_module("torch.utils.tensorboard")
        # what an interrupted run wrote after this step is not shown
        self._writer = module.SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Run:
    """wandb and trackio have the same calls."""

    def __init__(self, module: Any, **options: Any) -> None:
        self._run = module.init(**options)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


def _imported(name: str, setting: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise RuntimeError(
            f"expected the package {name} for {setting}, but it is not installed; "
            f'pip install "tapadl[tracking]", or leave {setting} out'
        ) from None


def _run_id(folder: Path) -> str:
    """The same for a run that goes on, another for every run that is begun."""
    path = folder / RUN_ID
    if not path.exists():
        write_atomically(path, secrets.token_hex(4).encode())
    name = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in folder.name)
    return f"{name}-{path.read_text()}"
