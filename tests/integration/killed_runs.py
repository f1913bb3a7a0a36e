"""A small training run with everything that has a state, and a harness that kills it and starts it again.

`python killed_runs.py run FOLDER` trains, or goes on, in one process or in those that torchrun started; the
first saves the weights as FOLDER/weights.pt. `python killed_runs.py disturb FOLDER WORLD_SIZE SEED` starts
such runs again and again, kills or stops them, and lets the last one finish. Its processes are forks of one
that has imported torch already, so that a start takes no seconds.
"""

import itertools
import os
import random
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import nn
from torch.utils.data import DataLoader, Dataset

import tapadl
from tapadl.training.adaptation import DiversificationTerm
from tapadl.training.engine import Ingredients, Outcome, train
from tapadl.training.objective import Batch, SupervisedObjective
from tapadl.training.sampling import EpochBatches, Place
from tapadl.training.settings import (
    CheckpointSettings,
    DataSettings,
    EvaluationSettings,
    LoggingSettings,
    ModelSettings,
    OptimizerSettings,
    ScheduleSettings,
    Settings,
    TrainingSettings,
)
from tapadl.training.step_plan import StepPlan
from tapadl.training.stopping import leave_stopping_to_trainer

NUM_SAMPLES, EPOCHS, WORKERS = 36, 4, 1
SETTINGS = Settings(
    ModelSettings("vit"),
    DataSettings("embedded"),
    optimizer=OptimizerSettings(clip_grad=1.0),
    schedule=ScheduleSettings(warmup_epochs=0),
    training=TrainingSettings(
        epochs=EPOCHS, batch_size=8, accumulation=2, precision="float16", ema_decay=0.9, seed=3
    ),
    checkpoint=CheckpointSettings(every_steps=2, every_epochs=None, keep=2, asynchronous=True),
    evaluation=EvaluationSettings(every_epochs=2),
    logging=LoggingSettings(every_steps=1),
)
PLAN = StepPlan.of(SETTINGS, NUM_SAMPLES)


class NoisyImages(Dataset[tuple[torch.Tensor, int]]):
    """Images (3, 16, 24) that follow from (epoch, index), so that a loader worker may draw them."""

    def __getitem__(self, place: Place) -> tuple[torch.Tensor, int]:
        epoch, index = place
        generator = torch.Generator().manual_seed(1000 * epoch + index)
        return torch.randn(3, 16, 24, generator=generator) + index % 5, index % 5


def make_model() -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=(16, 24),
        patch_size=4,
        embed_dim=16,
        depth=1,
        num_heads=2,
        num_classes=5,
        proj_drop_rate=0.1,
        drop_path_rate=0.1,
    )
    for block in model.blocks:
        nn.init.normal_(block.attn.qkv.weight, std=0.6)
    return tapadl.attach_tap(model)


def mixup(images: torch.Tensor, labels: torch.Tensor) -> Batch:
    share = torch.rand(len(images), 1, device=images.device)
    targets = F.one_hot(labels, 5).float()
    mixed = share.view(-1, 1, 1, 1) * images + (1 - share).view(-1, 1, 1, 1) * images.flip(0)
    return mixed, share * targets + (1 - share) * targets.flip(0)


def make_batches(start_step: int) -> Iterator[list[Batch]]:
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    step_to_die_at = (
        int(os.environ.get("DIE_AT", "-1")) if os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0" else -1
    )
    accumulation = SETTINGS.training.accumulation
    batches = EpochBatches(NUM_SAMPLES, 8, 3, rank=rank, world_size=world_size, accumulation=accumulation)
    loader = iter(
        DataLoader(
            NoisyImages(),
            batch_sampler=batches.micro_batches(start_step, PLAN.total_steps),
            num_workers=WORKERS,
            worker_init_fn=leave_stopping_to_trainer,
        )
    )
    for step in itertools.count(start_step):
        if step == step_to_die_at and rank == 1:
            # with the loader, which would keep its connections open for a while
            os.killpg(0, signal.SIGKILL)
        yield [next(loader) for _ in range(accumulation)]


def evaluate(model: nn.Module) -> dict[str, float]:
    if (marker := os.environ.get("WAIT_IN_EVALUATION")) is not None:
        Path(marker).touch()
        time.sleep(1000)
    with torch.no_grad():
        images, labels = zip(*(NoisyImages()[99, index] for index in range(20)), strict=True)
        hits = model(torch.stack(images)).argmax(1) == torch.tensor(labels)
    return {"top1": hits.float().mean().item()}


def run(folder: Path, tell: Callable[[str], None] = print) -> Outcome:
    model = make_model()
    term = DiversificationTerm(model, target_share=0.2, tau_quantile=0.8, warmup=4)
    ingredients = Ingredients(
        model,
        make_optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=2e-3),
        make_schedule=lambda optimizer: CosineLRScheduler(
            optimizer, t_initial=PLAN.total_steps, t_in_epochs=False
        ),
        make_batches=make_batches,
        objective=SupervisedObjective(F.cross_entropy, diversification=term, mix=mixup),
        evaluate=evaluate,
        units=list(model.blocks),
    )
    outcome = train(SETTINGS, ingredients, PLAN, folder, torch.device("cpu"), tell=tell)
    if outcome.finished and os.environ.get("RANK", "0") == "0":
        torch.save(dict(outcome.weights), folder / "weights.pt")
    return outcome


class Processes:
    """Forks of this process that run in a folder together, each in a session of its own."""

    def __init__(self, folder: Path, world_size: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        port = free_port()
        self.running = [self._fork(folder, rank, world_size, port) for rank in range(world_size)]
        self.statuses: list[int] = []

    def alive(self) -> bool:
        for pid in list(self.running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self.running.remove(pid)
                self.statuses.append(os.waitstatus_to_exitcode(status))
        return bool(self.running)

    def wait(self) -> list[int]:
        """Exit codes."""
        while self.alive():
            time.sleep(0.005)
        return self.statuses

    def send(self, signal_number: int, ranks: slice = slice(None)) -> None:
        for pid in self.running[ranks]:
            os.kill(pid, signal_number)

    def send_to_groups(self, signal_number: int) -> None:
        """Also to the loaders' processes, as torchrun does."""
        for pid in self.running:
            os.killpg(pid, signal_number)

    def _fork(self, folder: Path, rank: int, world_size: int, port: int) -> int:
        if pid := os.fork():
            return pid
        try:
            # a fork makes the pool of threads anew, and two threads may not do that at once
            torch.set_num_threads(1)
            os.setsid()
            os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            with (folder / f"output-{rank}.txt").open("a") as output:
                run(folder, tell=lambda sentence: print(sentence, file=output, flush=True))
            os._exit(0)
        except BaseException as error:
            print(f"rank {rank}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def steps_logged(folder: Path) -> int:
    log = folder / "log.jsonl"
    return log.read_text().count('"kind": "train"') if log.exists() else 0


def is_writing(folder: Path) -> bool:
    return any(not (path / "SHA256SUMS").exists() for path in folder.glob("checkpoints/step-*"))


def kill_in(folder: Path, world_size: int, step: int, delay: float, how: str) -> None:
    """Start a run, or let it go on, and kill it some time after a step."""
    processes = Processes(folder, world_size)
    while steps_logged(folder) < step:
        assert processes.alive(), f"ended before step {step}"
        time.sleep(0.001)
    time.sleep(delay)
    if how == "while it writes a checkpoint":
        while True:
            processes.send(signal.SIGSTOP)
            if is_writing(folder):
                break
            processes.send(signal.SIGCONT)
            time.sleep(0.002)
            assert processes.alive(), "ended before a checkpoint was seen half written"
    processes.send(signal.SIGKILL, slice(-1, None) if how == "one of several" else slice(None))
    assert 0 not in processes.wait(), "ended before it was killed"


def disturb(folder: Path, world_size: int, seed: int) -> None:
    """Runs in folders beside one another: undisturbed, killed again and again, stopped again and again."""
    draws = random.Random(seed)
    assert Processes(folder / "undisturbed", world_size).wait() == [0] * world_size
    for nth, how in enumerate(
        (*["at any moment"] * 3, *["while it writes a checkpoint"] * 2, "one of several")
    ):
        step = draws.randint(2 * nth + 3, 2 * nth + 4)
        kill_in(folder / "killed", world_size, step, draws.uniform(0, 0.1), how)
    assert Processes(folder / "killed", world_size).wait() == [0] * world_size

    for drawn in sorted(draws.sample(range(2, PLAN.total_steps - 4), 2)):
        # a step of this start, or the processes may not be there yet
        step = max(drawn, steps_logged(folder / "stopped") + 1)
        processes = Processes(folder / "stopped", world_size)
        while steps_logged(folder / "stopped") < step:
            assert processes.alive()
            time.sleep(0.001)
        processes.send_to_groups(signal.SIGTERM)
        assert processes.wait() == [0] * world_size, "SIGTERM did not end it with 0"
        assert step <= steps_logged(folder / "stopped") < PLAN.total_steps
    stop_in_evaluation(folder / "stopped", world_size)
    assert Processes(folder / "stopped", world_size).wait() == [0] * world_size


def stop_in_evaluation(folder: Path, world_size: int) -> None:
    marker = folder / "evaluates"
    os.environ["WAIT_IN_EVALUATION"] = str(marker)
    processes = Processes(folder, world_size)
    del os.environ["WAIT_IN_EVALUATION"]
    while not marker.exists():
        assert processes.alive()
        time.sleep(0.005)
    processes.send_to_groups(signal.SIGTERM)
    assert processes.wait() == [0] * world_size, "SIGTERM did not end it with 0 in an evaluation"


if __name__ == "__main__":
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    if sys.argv[1] == "run":
        run(Path(sys.argv[2]))
    else:
        disturb(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
