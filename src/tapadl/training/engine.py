"""The training loop, from one process to many: it saves, stops, goes on, and is told what to train."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from tapadl.training.checkpoint import Checkpoints
from tapadl.training.diary import Diary, Progress
from tapadl.training.log import RunLog
from tapadl.training.meter import Meter
from tapadl.training.objective import Batch, Objective
from tapadl.training.parallel import distribute, joined, over_processes
from tapadl.training.settings import Settings
from tapadl.training.state import TrainingState
from tapadl.training.step import Schedule, Stepper
from tapadl.training.step_plan import StepPlan
from tapadl.training.stopping import StopRequestedError, StopSignal
from tapadl.training.tracking import Tracker, open_trackers
from tapadl.training.weight_average import WeightAverage

CHECKPOINTS = "checkpoints"
LOG = "log.jsonl"


@dataclass(frozen=True)
class Ingredients:
    """What is trained, on what, towards what.

    Args:
        model: On any device; every process makes the same one.
        make_optimizer: Of the model, once it is where it is trained and sharded if it is.
        make_schedule: Of the optimizer.
        make_batches: For a process and from a step on: the micro-batches of each step, the same number in
            every process.
        objective: What is minimised.
        evaluate: Of the model, in evaluation mode: what it scores, by name. Called by every process, and
            given up halfway when the run is asked to stop.
        score: The name of the score that tells which checkpoint is the best; higher is better.
        units: Modules that `training.parallel: fsdp` gathers one at a time, such as the blocks.
        evaluated_on: Tells the images that scores are of from others, whose scores do not compare.
    """

    model: nn.Module
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    make_schedule: Callable[[torch.optim.Optimizer], Schedule]
    make_batches: Callable[[int], Iterator[Sequence[Batch]]]
    objective: Objective
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None
    score: str = "top1"
    units: Sequence[nn.Module] = ()
    evaluated_on: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Args:
        finished: All steps are done; else it was asked to stop, and has saved.
        step: Steps done.
        best: The best evaluation: its "step", its "score" and what else was measured; nothing without one.
        weights: The result, the averaged ones where there is an average, by name on the CPU.
    """

    finished: bool
    step: int
    best: Mapping[str, Any]
    weights: Mapping[str, torch.Tensor]


def train(
    settings: Settings,
    ingredients: Ingredients,
    plan: StepPlan,
    folder: Path,
    device: torch.device,
    *,
    identity: Mapping[str, Any] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_evaluation: Callable[[int, Mapping[str, float]], None] | None = None,
    on_step: Callable[[int], None] | None = None,
    on_best: Callable[[Mapping[str, torch.Tensor]], None] | None = None,
    tell: Callable[[str], None] = lambda sentence: None,
    stop: StopSignal | None = None,
) -> Outcome:
    """Train a model in place, or go on where the folder says an earlier call was interrupted.

    A call that goes on with as many processes as before ends with the same weights, on CPUs bit for bit.

    Args:
        settings: Of the run; those of the model, the data and the augmentation are the ingredients' matter.
        ingredients: What is trained, on what, towards what.
        plan: Steps in all and in an epoch.
        folder: Gets `checkpoints/` and `log.jsonl`.
        device: Of this process.
        identity: What the run is, as plain data: checkpoints of another are refused.
        on_progress: Called in the first process with every line of the log about training.
        on_evaluation: Called in the first process with a step and what was measured after it.
        on_step: Called in the first process with the steps done: where it begins or goes on, then after each.
        on_best: Called in the first process with the weights of the best evaluation so far, as in `Outcome`.
        tell: Takes sentences, in the first process.
        stop: What hears SIGTERM, entered already; None for one of its own.

    Returns:
        How it ended.

    Raises:
        OSError: If a checkpoint or the log cannot be written; the last good checkpoint stays.
        RuntimeError: If a loss or a weight is not finite; the message says at which step.
        ValueError: If the folder holds checkpoints of another run.
    """
    training = settings.training
    model = ingredients.model.to(device)
    if training.channels_last and training.parallel != "fsdp":
        # FSDP shards contiguous parameters alone; channels-last images bring the speed without them
        model = model.to(memory_format=torch.channels_last)
    if training.compile:
        model.compile()
    with joined(device), StopSignal() if stop is None else nullcontext(stop) as stop:
        first = dist.get_rank() == 0
        wrapped = distribute(model, training.parallel, ingredients.units)
        state = TrainingState(
            model,
            ingredients.make_optimizer(model),
            torch.amp.GradScaler(device.type, enabled=training.precision == "float16"),
            ingredients.objective,
            None if training.ema_decay is None else WeightAverage(model, training.ema_decay),
        )
        folder.mkdir(parents=True, exist_ok=True)
        checkpoints = Checkpoints(
            folder / CHECKPOINTS,
            identity or {},
            keep=settings.checkpoint.keep,
            asynchronous=settings.checkpoint.asynchronous,
            tell=tell if first else _nobody,
        )
        trackers: list[Tracker] = []
        try:
            if checkpoints.restore(state) and first:
                tell(f"going on from step {state.step} of {plan.total_steps}")
            if first:
                trackers += open_trackers(settings.logging, folder, identity or {}, state.step)
            diary = None
            if first:
                log = RunLog(folder / LOG)
                diary = Diary(log, trackers, on_progress or _nobody, on_evaluation or _nobody)
            schedule = ingredients.make_schedule(state.optimizer)
            stepper = Stepper(settings, state, schedule, wrapped, device)
            on_step = on_step if first and on_step is not None else _nobody
            meter = Meter(device)
            loop = _Loop(
                settings, ingredients, plan, state, stepper, checkpoints, stop, diary, meter, on_step, on_best
            )
            finished = loop.run()
            return Outcome(finished, state.step, state.best, state.weights() if finished else {})
        finally:
            for tracker in trackers:
                tracker.close()
            checkpoints.close()


@dataclass
class _Loop:
    settings: Settings
    ingredients: Ingredients
    plan: StepPlan
    state: TrainingState
    stepper: Stepper
    checkpoints: Checkpoints
    stop: StopSignal
    diary: Diary | None
    meter: Meter
    on_step: Callable[[int], None]
    on_best: Callable[[Mapping[str, torch.Tensor]], None] | None

    def run(self) -> bool:
        """Whether all steps were done; otherwise it was stopped and has saved."""
        state = self.state
        if self.diary is not None:
            self.diary.log.go_back(state.step)
        self.on_step(state.step)
        # a checkpoint is saved before its evaluation, which may have been interrupted
        if state.step and not self._evaluate_if_due():
            return False
        state.model.train()
        batches = self.ingredients.make_batches(state.step)
        try:
            finished = self._step_through(batches)
        finally:
            # ends the processes of a loader, also where a traceback would keep it
            getattr(batches, "close", lambda: None)()
        self._save()
        self.checkpoints.wait()
        return finished

    def _step_through(self, batches: Iterator[Sequence[Batch]]) -> bool:
        state = self.state
        while state.step < self.plan.total_steps:
            micro_batches = next(batches)
            images, stop = self._together(float(sum(len(images) for images, _ in micro_batches)))
            if stop:
                return False
            parts = self.stepper.step(micro_batches, images)
            state.step += 1
            self.meter.add(state.step, parts, images)
            self.on_step(state.step)
            checkpoint = self.settings.checkpoint
            saves = self._is_due(checkpoint.every_steps, checkpoint.every_epochs) or self._evaluates()
            if saves or self._is_due(self.settings.logging.every_steps, None):
                # at every checkpoint too: a run that goes on from it then writes the same lines
                self._log()
            if saves:
                self._save()
            if not self._evaluate_if_due():
                return False
        return True

    def _is_due(self, every_steps: int | None, every_epochs: int | None) -> bool:
        step = self.state.step
        epochs, rest = divmod(step, self.plan.steps_per_epoch)
        return (
            step == self.plan.total_steps
            or (every_steps is not None and step % every_steps == 0)
            or (every_epochs is not None and rest == 0 and epochs % every_epochs == 0)
        )

    def _evaluates(self) -> bool:
        every_epochs = self.settings.evaluation.every_epochs
        return self.ingredients.evaluate is not None and self._is_due(None, every_epochs)

    def _together(self, images: float) -> tuple[float, bool]:
        """The sum over processes, and whether one of them was asked to stop."""
        total, stops = over_processes(torch.tensor([images, float(self.stop.requested)]))
        return total, stops > 0

    def _log(self) -> None:
        self._check_finite()
        values = self.meter.read()
        if self.diary is None:
            return
        values["learning_rate"] = max(group["lr"] for group in self.state.optimizer.param_groups)
        step = self.state.step
        epoch = self.plan.place(step - 1)[0] + 1
        self.diary.trained(Progress(step, self.plan.total_steps, epoch, values))

    def _save(self) -> None:
        if self.state.step and self.checkpoints.saved_step != self.state.step:
            self._check_finite()
            self.checkpoints.save(self.state)

    def _evaluate_if_due(self) -> bool:
        """False if it was given up because the run is to stop."""
        state, evaluate = self.state, self.ingredients.evaluate
        if evaluate is None or not self._evaluates():
            return True
        self._save()
        if self._together(0.0)[1]:
            self.checkpoints.wait()
            return False
        state.model.eval()
        try:
            with (
                self.meter.paused(),
                nullcontext() if state.average is None else state.average.in_place(),
                self.stop.interrupting(),
            ):
                measured = dict(evaluate(state.model))
        except (Exception, StopRequestedError):
            # once one process gives up, what the others still exchange fails
            if not self.stop.requested:
                raise
            self.checkpoints.wait()
            return False
        state.model.train()
        if self.diary is not None:
            self.diary.evaluated(state.step, measured)
        score = measured[self.ingredients.score]
        images = self.ingredients.evaluated_on
        if not state.best or score > state.best["score"] or state.best.get("images", "") != images:
            state.best = {"step": state.step, "score": score, **measured}
            if images:
                state.best["images"] = images
            self.checkpoints.keep_best(state.best)
            if self.on_best is not None:
                weights = state.weights()  # every process takes part
                if self.diary is not None:
                    self.on_best(weights)
        return True

    def _check_finite(self) -> None:
        """That no loss was, and no weight is, NaN or infinite: what is saved is good."""
        step = self.meter.first_bad_step()
        what = "loss"
        if step is None:
            weights = [p.to_local() if isinstance(p, DTensor) else p for p in self.state.model.parameters()]
            finite = torch.stack([weight.detach().isfinite().all() for weight in weights]).all()
            if over_processes(finite.float().view(1), dist.ReduceOp.MIN)[0]:
                return
            step, what = self.state.step, "weights"
        self.checkpoints.wait()
        saved = self.checkpoints.saved_step
        kept = "nothing was saved before" if saved is None else f"the last good checkpoint is of step {saved}"
        raise RuntimeError(
            f"expected a finite {what}, got NaN or infinity at step {step} of {self.plan.total_steps} "
            f"(epoch {self.plan.place(step - 1)[0] + 1}); "
            f"{kept}; try a learning rate below {self.settings.optimizer.lr:g}"
        )


def _nobody(*_message: object) -> None:
    pass
