"""A training run in its folder: begun, gone on with, and what it leaves behind."""

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from safetensors.torch import save

from tapadl.data.atomic import write_atomically
from tapadl.data.job_folder import JobKind, open_job_folder
from tapadl.evaluation import processes
from tapadl.evaluation.provenance import hardware, versions
from tapadl.tasks.classification.recipe import ClassificationRecipe
from tapadl.tasks.segmentation.recipe import SegmentationRecipe
from tapadl.training.arguments import dump
from tapadl.training.curves import CURVES, draw_curves
from tapadl.training.diary import Progress
from tapadl.training.engine import CHECKPOINTS, LOG, Outcome, train
from tapadl.training.log import RunLog
from tapadl.training.parallel import joined
from tapadl.training.settings import Settings, Task
from tapadl.training.stopping import StopRequestedError, StopSignal

WEIGHTS = "model.safetensors"
BEST_WEIGHTS = "best.safetensors"
CONFIG = "config.json"
SETTINGS = "settings.yaml"
STARTS = "starts.json"

JOB_KIND = JobKind(
    name="training",
    schema=1,
    parts=CHECKPOINTS,
    made=r"model\.safetensors|best\.safetensors|config\.json|settings\.yaml|starts\.json|log\.jsonl|curves\.png",
    finished=WEIGHTS,
    page=CURVES,
    advice="name another folder, or remove this one to begin anew",
)

Recipe = ClassificationRecipe | SegmentationRecipe
RECIPES: Mapping[Task, type[Recipe]] = {
    "classification": ClassificationRecipe,
    "segmentation": SegmentationRecipe,
}

# What may differ when a run goes on: where and how it is computed and told, not what comes out. Images are
# told apart by what they are, not by where they lie.
_FREE = ("checkpoint", "logging", "evaluation")
_FREE_KEYS = {
    "data": ("train", "val", "extra_train", "workers", "on_error"),
    "segmentation": ("window", "stride"),
    "training": ("device",),
}


class Watcher(Protocol):
    """Is told what happens, in the first process."""

    def tell(self, sentence: str) -> None:
        """Something to know."""

    def begin(self, total_steps: int) -> None:
        """Training is about to begin or go on."""

    def stepped(self, step: int) -> None:
        """So many steps are done."""

    def trained(self, progress: Progress) -> None:
        """A line of the log."""

    def shown(self, images: int, of: int) -> None:
        """So many images of an evaluation were shown."""

    def evaluated(self, step: int, measured: Mapping[str, float]) -> None:
        """The scores after a step."""


def run_training(settings: Settings, out: Path | None, watcher: Watcher, *, command: str) -> Outcome | None:
    """Train what the settings describe, or go on where an earlier call in the same folder was interrupted.

    The folder gets `settings.yaml`, every setting; `starts.json`, when and with what it was started;
    `config.json`, the model as timm reads it, or a segmenter's description; `log.jsonl`; `checkpoints/`;
    `best.safetensors`, the weights of the best evaluation so far; and at the end `curves.png` and
    `model.safetensors`, the result.

    Args:
        settings: Of the run.
        out: The folder; None for a new one under `runs/`.
        watcher: Is told what happens.
        command: What was typed.

    Returns:
        How it ended; None if it was asked to stop before it began.

    Raises:
        FileExistsError: If the folder holds anything but the same unfinished run.
        OSError: If images are missing, or something cannot be written; the last good checkpoint stays.
        ValueError: If something does not fit.
        RuntimeError: If a loss or a weight is not finite.
    """
    device = processes.find_device(settings.training.device)
    if device.index is not None and device.type != "cpu":
        torch.accelerator.set_device_index(device.index)
    with joined(device), StopSignal() as stop:
        first = dist.get_rank() == 0
        try:
            with stop.interrupting():
                recipe = RECIPES[settings.task].of(settings, device, watcher.shown if first else None)
        except StopRequestedError:
            return None
        with _opened(settings, recipe, out) as folder:
            if first:
                write_atomically(folder / SETTINGS, dump(settings).encode())
                _record_start(folder, device, command, recipe, watcher)
                _write_config(folder, recipe)
                watcher.tell(_first_sentence(folder, settings, recipe))
                watcher.begin(recipe.plan.total_steps)
            outcome = train(
                settings,
                recipe.ingredients,
                recipe.plan,
                folder,
                device,
                identity=_identity(settings, recipe),
                on_progress=watcher.trained,
                on_evaluation=watcher.evaluated,
                on_step=watcher.stepped,
                on_best=lambda weights: _write_weights(folder / BEST_WEIGHTS, weights, recipe),
                tell=watcher.tell,
                stop=stop,
            )
            skipped = _of_all_processes(recipe.unreadable())
            if first:
                _tell_skipped(skipped, watcher)
                draw_curves(RunLog(folder / LOG).lines(), folder / CURVES)
                if outcome.finished:
                    # last: it says that the run is finished
                    _write_weights(folder / WEIGHTS, outcome.weights, recipe)
                watcher.tell(_last_sentence(folder, outcome, recipe))
            dist.barrier()
            return outcome


def _identity(settings: Settings, recipe: Recipe) -> dict[str, dict[str, Any]]:
    """What tells a run from others: all that decides the weights it ends with."""
    sections = settings.to_json()
    task = sections.pop("task")
    kept = {name: dict(values) for name, values in sections.items() if name not in _FREE}
    for section, keys in _FREE_KEYS.items():
        for key in keys:
            del kept[section][key]
    if task == "classification":  # as it was before there were others
        del kept["segmentation"], kept["optimizer"]["head_lr"]
    else:
        kept["run"] = {"task": task}
    return {**kept, "images": recipe.identity()}


@contextmanager
def _opened(settings: Settings, recipe: Recipe, out: Path | None) -> Iterator[Path]:
    """The folder of the run in every process, held by the first."""
    with ExitStack() as stack:
        told: list[Any] = [None]
        if dist.get_rank() == 0:
            try:
                opened = open_job_folder(out, JOB_KIND, _identity(settings, recipe))
                told = [stack.enter_context(opened).path]
            except (OSError, ValueError) as error:
                told = [error]
        dist.broadcast_object_list(told, src=0)
        if isinstance(told[0], Exception):
            raise told[0]
        yield told[0]


def _record_start(folder: Path, device: torch.device, command: str, recipe: Recipe, watcher: Watcher) -> None:
    path = folder / STARTS
    earlier = _earlier_starts(path)
    now = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "versions": versions(),
        "git_revision": _git_revision(),
        "processes": dist.get_world_size(),
        "hardware": hardware(device),
        "val": recipe.ingredients.evaluated_on,
    }
    if earlier and earlier[-1].get("val") != now["val"]:
        watcher.tell(
            "going on with other images in data.val: what was measured before is no longer comparable"
        )
    if earlier and earlier[-1]["versions"] != now["versions"]:
        changed = [
            f"{name} {earlier[-1]['versions'].get(name)} -> {version}"
            for name, version in versions().items()
            if earlier[-1]["versions"].get(name) != version
        ]
        watcher.tell(f"going on with other versions ({', '.join(changed)}): not bit for bit as it would have")
    write_atomically(path, json.dumps([*earlier, now], indent=1).encode() + b"\n")


def _earlier_starts(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        earlier: list[dict[str, Any]] = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(
            f"expected JSON in {path}, but it is damaged ({error}); remove it, it only tells of earlier "
            f"starts"
        ) from None
    return earlier


def _git_revision() -> str | None:
    """Of the repository around the current folder, with a plus sign if files differ from it."""
    try:
        revision = _git("rev-parse", "HEAD")
        return revision + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def _of_all_processes(paths: list[str]) -> list[str]:
    gathered: list[list[str]] = [[]] * dist.get_world_size()
    dist.all_gather_object(gathered, paths)
    return sorted({path for of_process in gathered for path in of_process})


def _tell_skipped(paths: list[str], watcher: Watcher) -> None:
    if paths:
        shown = ", ".join(paths[:3]) + (", ..." if len(paths) > 3 else "")
        watcher.tell(f"skipped {len(paths)} training images that cannot be read: {shown}")


def _write_config(folder: Path, recipe: Recipe) -> None:
    config = recipe.config()
    if config is not None:
        write_atomically(folder / CONFIG, json.dumps(config, indent=2).encode() + b"\n")


def _write_weights(path: Path, weights: Mapping[str, torch.Tensor], recipe: Recipe) -> None:
    write_atomically(path, save(dict(weights), recipe.facts()))


def _first_sentence(folder: Path, settings: Settings, recipe: Recipe) -> str:
    parameters = sum(parameter.numel() for parameter in recipe.built.model.parameters())
    train = recipe.data.train
    return (
        f"training {settings.model.name} ({parameters / 1e6:.2f}M parameters, TAP "
        f"{'on' if settings.tap.enabled else 'off'}, ADL {'on' if settings.adl.enabled else 'off'}) on "
        f"{len(train):,} images of {len(train.class_names):,} classes in {recipe.plan.total_steps:,} steps: "
        f"{folder}"
    )


def _last_sentence(folder: Path, outcome: Outcome, recipe: Recipe) -> str:
    total = recipe.plan.total_steps
    if not outcome.finished:
        return f"stopped at step {outcome.step} of {total} and saved; the same command goes on from there"
    best = f", the best at step {outcome.best['step']}" if outcome.best else ""
    return f"finished {total} steps: {folder / WEIGHTS}{best}"
