"""What the tests of training run in one process and in several.

`python several_processes.py FOLDER` runs all of `RUNS`, each in processes of its own, and saves what they
return as FOLDER/returned.pt. They are forks: to import torch and timm takes longer than any of them.
"""

import contextlib
import itertools
import os
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.tensor import DTensor

import tapadl
from tapadl.training.adaptation import DiversificationTerm
from tapadl.training.engine import Ingredients, Outcome, train
from tapadl.training.log import RunLog
from tapadl.training.meter import Meter
from tapadl.training.objective import Batch, SupervisedObjective
from tapadl.training.parallel import distribute, joined, share_buffers
from tapadl.training.sampling import EpochBatches
from tapadl.training.settings import (
    CheckpointSettings,
    DataSettings,
    EvaluationSettings,
    LoggingSettings,
    ModelSettings,
    OptimizerSettings,
    Settings,
    TrainingSettings,
)
from tapadl.training.state import TrainingState
from tapadl.training.step import Stepper
from tapadl.training.step_plan import StepPlan

CPU = torch.device("cpu")
IMAGES = torch.randn(24, 3, 16, 24, dtype=torch.double, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(24) % 5
BATCH_SIZE, STEPS = 12, 4


class ConstantSchedule:
    def step_update(self, _num_updates: int) -> None:
        pass


def make_model() -> nn.Module:
    """Norms over a batch use what they have stored: those of a part of it would be others."""
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=(16, 24),
        patch_size=4,
        embed_dim=16,
        depth=2,
        num_heads=2,
        num_classes=5,
    )
    for block in model.blocks:
        nn.init.normal_(block.attn.qkv.weight, std=0.6)
    model = tapadl.attach_tap(model).double().train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval().train = lambda mode=True, norm=module: norm
    return model


def make_settings(**training: Any) -> Settings:
    return Settings(
        ModelSettings("vit"),
        DataSettings("embedded"),
        optimizer=OptimizerSettings(clip_grad=1.0),
        training=TrainingSettings(**{"epochs": 10, "batch_size": BATCH_SIZE} | training),
        checkpoint=CheckpointSettings(every_steps=2, every_epochs=None, keep=2),
        evaluation=EvaluationSettings(every_epochs=1),
        logging=LoggingSettings(every_steps=2),
    )


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def take_step(*parts: list[int], parallel: str = "ddp") -> dict[str, Any]:
    """One step: `parts` says how many images each process has in each of its micro-batches."""
    images = sum(sum(sizes) for sizes in parts)
    starts = itertools.accumulate((size for of_rank in parts for size in of_rank), initial=0)
    cut = [[slice(start, start + size) for size, start in zip(sizes, starts)] for sizes in parts]  # noqa: B905
    model = make_model()
    term = DiversificationTerm(model, target_share=0.2, tau_quantile=0.8)
    wrapped = distribute(model, parallel, list(model.blocks))
    objective = SupervisedObjective(F.cross_entropy, diversification=term, augment=torch.neg)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    state = TrainingState(model, optimizer, torch.amp.GradScaler("cpu", enabled=False), objective)
    stepper = Stepper(make_settings(), state, ConstantSchedule(), wrapped, CPU)
    micro_batches = [(IMAGES[part], LABELS[part]) for part in cut[dist.get_rank()]]
    meter = Meter(CPU)
    meter.add(1, stepper.step(micro_batches, images), images)
    logged = meter.read()
    del logged["images_per_second"]
    return {
        "weights": {name: whole(parameter) for name, parameter in model.named_parameters()},
        "gradients": {name: whole(parameter.grad) for name, parameter in model.named_parameters()},
        "logged": logged,
        "adapted": objective.state(),
    }


def take_overflowing_step(parallel: str) -> dict[str, Any]:
    """A step in float16 whose gradient is infinite in the first row of the weights: one process has it."""
    model = nn.Linear(3, 2, bias=False)
    nn.init.ones_(model.weight)
    wrapped = distribute(model, parallel)
    objective = SupervisedObjective(
        lambda logits, _: (logits.float() * torch.tensor([torch.finfo(torch.float).max, 1.0])).mean()
    )
    state = TrainingState(
        model, torch.optim.SGD(model.parameters(), lr=0.1), torch.amp.GradScaler("cpu"), objective
    )
    stepper = Stepper(make_settings(precision="float16"), state, ConstantSchedule(), wrapped, CPU)
    stepper.step([(torch.full((4, 3), 1e-4), torch.zeros(4, dtype=torch.int64))], images_of_step=8)
    return {"weights": whole(model.weight), "scale": state.scaler.get_scale()}


def read_meter() -> dict[str, Any]:
    """Two processes that report other numbers, one of them infinite in the third step."""
    rank, meter = dist.get_rank(), Meter(CPU)
    meter.add(1, {"loss": torch.tensor(1.0 + rank), "rare": torch.tensor(4.0)}, images=8)
    meter.add(2, {"loss": torch.tensor(5.0 - rank)}, images=8)
    before = meter.read(), meter.first_bad_step()
    meter.add(3, {"loss": torch.tensor(float("inf") if rank == 1 else 0.0)}, images=8)
    meter.add(4, {"loss": torch.tensor(float("nan"))}, images=8)
    return {"values": before[0], "bad before": before[1], "bad": meter.first_bad_step()}


def begin_unlike() -> dict[str, Any]:
    """Processes whose models, and later whose norms, are unlike each other."""
    torch.manual_seed(dist.get_rank())
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    distribute(model, "ddp")
    begun = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model[1].running_mean.fill_(dist.get_rank() + 1.0)
    share_buffers(model)
    return {"begun": begun, "shared": model[1].running_mean.clone()}


class CrashError(Exception):
    """Ends a run on purpose."""


def run_engine(
    folder: Path,
    *,
    crash_before: int | None = None,
    before_step: Callable[[int], None] = lambda step: None,
    factor_of_loss: Callable[[int], float] = lambda step: 1.0,
    **training: Any,
) -> Outcome:
    """A run of `STEPS` steps that has everything, in as many processes as there are."""
    settings = make_settings(ema_decay=0.9, max_steps=STEPS, **training)
    accumulation = settings.training.accumulation
    model = make_model()
    term = DiversificationTerm(model, target_share=0.2, tau_quantile=0.8)
    factor = 1.0

    def make_batches(start_step: int) -> Iterator[list[Batch]]:
        batches = EpochBatches(24, BATCH_SIZE, 0, dist.get_rank(), dist.get_world_size(), accumulation)
        for step, micro_batches in enumerate(batches.batches(start_step), start_step):
            if step == crash_before:
                raise CrashError
            before_step(step)
            nonlocal factor
            factor = factor_of_loss(step)
            places = [[index for _, index in micro_batch] for micro_batch in micro_batches]
            yield [(IMAGES[indices], LABELS[indices]) for indices in places]

    @torch.no_grad()
    def evaluate(model: nn.Module) -> dict[str, float]:
        return {"top1": -F.cross_entropy(model(IMAGES), LABELS).item()}

    ingredients = Ingredients(
        model,
        make_optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=2e-3),
        make_schedule=lambda _optimizer: ConstantSchedule(),
        make_batches=make_batches,
        objective=SupervisedObjective(
            lambda logits, labels: factor * F.cross_entropy(logits, labels), diversification=term
        ),
        evaluate=evaluate,
        units=list(model.blocks),
    )
    return train(settings, ingredients, StepPlan.of(settings, 24, dist.get_world_size()), folder, CPU)


def run_through(folder: Path, **training: Any) -> dict[str, Any]:
    outcome = run_engine(folder, **training)
    return {
        "weights": dict(outcome.weights),
        "best": dict(outcome.best),
        "log": RunLog(folder / "log.jsonl").lines(),
    }


def run_twice(folder: Path, **training: Any) -> dict[str, Any]:
    """Undisturbed; and beside it, ended in its fourth step and gone on with."""
    undisturbed = run_through(folder / "undisturbed", **training)
    with contextlib.suppress(CrashError):
        run_engine(folder / "resumed", crash_before=3, **training)
    return {"undisturbed": undisturbed, "resumed": run_through(folder / "resumed", **training)}


def spoil_second(step: int) -> float:
    return float("nan") if step == 3 and dist.get_rank() == 1 else 1.0


def fail(folder: Path, **options: Any) -> dict[str, Any]:
    """The error that ends a run, and how far a run of the same folder then comes from what is left."""
    try:
        run_engine(folder, **options)
        error = "none"
    except (OSError, RuntimeError) as raised:
        error = f"{type(raised).__name__}: {raised}"
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    dist.barrier()
    kept = sorted(path.name for path in (folder / "checkpoints").iterdir())
    dist.barrier()
    return {"error": error, "kept": kept, "after": run_through(folder)}


def fill_disk_of_second(step: int) -> None:
    if step == 3 and dist.get_rank() == 1:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))


# name: number of processes, and what each of them does in a folder that they share
RUNS: dict[str, tuple[int, Callable[[Path], dict[str, Any]]]] = {
    "2 x 4": (2, lambda _: take_step([4], [4])),
    "2 x 2 x 2": (2, lambda _: take_step([2, 2], [2, 2])),
    "unequal processes": (3, lambda _: take_step([2], [4], [3])),
    "unequal processes and parts": (2, lambda _: take_step([3, 2], [4, 2])),
    "2 x 4, sharded": (2, lambda _: take_step([4], [4], parallel="fsdp")),
    "unequal processes and parts, sharded": (
        3,
        lambda _: take_step([3, 2], [4, 2], [2, 2], parallel="fsdp"),
    ),
    "overflow": (2, lambda _: take_overflowing_step("ddp")),
    "overflow, sharded": (2, lambda _: take_overflowing_step("fsdp")),
    "meter": (2, lambda _: read_meter()),
    "unlike": (2, lambda _: begin_unlike()),
    "run": (3, run_twice),
    "run, accumulated": (2, partial(run_through, accumulation=2)),
    "run, sharded": (2, partial(run_twice, parallel="fsdp")),
    "run, spoilt": (2, partial(fail, factor_of_loss=spoil_second)),
    "run, full disk": (2, partial(fail, before_step=fill_disk_of_second)),
}


def main(folder: Path) -> None:
    returned = {}
    for name, (world_size, run) in RUNS.items():
        place = folder / name
        place.mkdir()
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            port = listening.getsockname()[1]
        children = [fork(run, place, rank, world_size, port) for rank in range(world_size)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        if codes != [0] * world_size:
            sys.exit(f"{name}: exit codes {codes}")
        returned[name] = [torch.load(place / f"returned-{rank}.pt") for rank in range(world_size)]
    torch.save(returned, folder / "returned.pt")


def fork(run: Callable[[Path], Any], folder: Path, rank: int, world_size: int, port: int) -> int:
    if child := os.fork():
        return child
    try:
        # a fork makes the pool of threads anew, and two threads may not do that at once
        torch.set_num_threads(1)
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        with joined(CPU):
            value = run(folder)
        torch.save(value, folder / f"returned-{rank}.pt")
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
