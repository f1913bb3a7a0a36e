import dataclasses
import json
import os
import signal
import sys

import pytest
import torch
import torch.nn.functional as F
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import nn

from tapadl.training.engine import Ingredients, train
from tapadl.training.log import RunLog
from tapadl.training.objective import Objective, SupervisedObjective
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
from tapadl.training.stopping import StopSignal

CPU = torch.device("cpu")
IMAGES = torch.randn(10, 6, dtype=torch.double, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(10) % 3
# three steps an epoch
PLAN = StepPlan(steps_per_epoch=3, total_steps=9, warmup_steps=0, micro_batch_size=4)


def make_settings(**sections):
    chosen = {
        "optimizer": OptimizerSettings(clip_grad=0.5),
        "schedule": ScheduleSettings(warmup_epochs=0),
        "training": TrainingSettings(epochs=3, batch_size=4, ema_decay=0.8),
        "checkpoint": CheckpointSettings(every_steps=2, every_epochs=None, keep=2),
        "logging": LoggingSettings(every_steps=2),
    }
    return Settings(ModelSettings("mlp"), DataSettings("embedded"), **chosen | sections)


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3)).double()


def batch_of(step):
    indices = torch.randperm(10, generator=torch.Generator().manual_seed(step))[:4]
    return IMAGES[indices], LABELS[indices]


def make_batches(start_step):
    step = start_step
    while True:
        images, labels = batch_of(step)
        yield [(images[:3], labels[:3]), (images[3:], labels[3:])]
        step += 1


def score(model):
    with torch.no_grad():
        return {"top1": (model(IMAGES).argmax(1) == LABELS).double().mean().item(), "spread": 1.0}


def make_ingredients(**changes):
    return Ingredients(
        **{
            "model": make_model(),
            "make_optimizer": lambda model: torch.optim.AdamW(model.parameters(), lr=0.05),
            "make_schedule": lambda optimizer: CosineLRScheduler(optimizer, t_initial=9, t_in_epochs=False),
            "make_batches": make_batches,
            "objective": SupervisedObjective(F.cross_entropy),
            "evaluate": score,
        }
        | changes
    )


def run(folder, settings=None, plan=PLAN, options=None, **changes):
    return train(settings or make_settings(), make_ingredients(**changes), plan, folder, CPU, **options or {})


def by_hand(steps=9):
    """The same training as a loop of torch alone: weights, their average, and the loss of every step."""
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    schedule = CosineLRScheduler(optimizer, t_initial=9, t_in_epochs=False)
    average = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    losses, norms, scores = [], [], {}
    for step in range(steps):
        schedule.step_update(step)
        images, labels = batch_of(step)
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), 0.5).item())
        optimizer.step()
        losses.append(loss.item())
        for name, tensor in model.state_dict().items():
            average[name].mul_(0.8).add_(tensor, alpha=0.2)
        if step % 3 == 2:
            averaged = make_model()
            averaged.load_state_dict(average)
            scores[step + 1] = score(averaged)
    return model.state_dict(), average, losses, norms, scores


def lines(folder):
    """Of the log, without how fast it went."""
    found = RunLog(folder / "log.jsonl").lines()
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in found]


def checkpoints(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_it_trains_as_a_loop_of_torch_does(tmp_path):
    weights, average, _, _, scores = by_hand()
    ingredients = make_ingredients()
    outcome = train(make_settings(), ingredients, PLAN, tmp_path, CPU)
    assert (outcome.finished, outcome.step) == (True, 9)
    for name, weight in ingredients.model.state_dict().items():
        torch.testing.assert_close(weight, weights[name], rtol=1e-11, atol=1e-13)
        torch.testing.assert_close(outcome.weights[name], average[name], rtol=1e-11, atol=1e-13)
    assert outcome.best["score"] == outcome.best["top1"] == max(each["top1"] for each in scores.values())


def test_without_an_average_the_weights_are_the_result(tmp_path):
    settings = make_settings(training=TrainingSettings(epochs=3, batch_size=4))
    outcome = run(tmp_path, settings)
    for name, weight in by_hand()[0].items():
        torch.testing.assert_close(outcome.weights[name], weight, rtol=1e-11, atol=1e-13)


def test_the_log_holds_means_since_the_line_before_and_the_scores_of_the_average(tmp_path):
    _, _, losses, norms, scores = by_hand()
    run(tmp_path)
    trained = {line["step"]: line for line in lines(tmp_path) if line["kind"] == "train"}
    # after every second step, and with each checkpoint, as before an evaluation
    assert list(trained) == [2, 3, 4, 6, 8, 9]
    for before, step in zip([0, 2, 3, 4, 6, 8], trained, strict=True):
        line = trained[step]
        assert line["loss"] == line["cross_entropy"]
        assert line["loss"] == pytest.approx(sum(losses[before:step]) / (step - before), rel=1e-6)
        assert line["gradient_norm"] == pytest.approx(sum(norms[before:step]) / (step - before), rel=1e-6)
        assert line["epoch"] == (step - 1) // 3 + 1
        assert line["learning_rate"] == pytest.approx(
            0.025 * (1 + torch.tensor((step - 1) / 9 * torch.pi).cos().item()), rel=1e-6
        )
    evaluated = {line["step"]: line for line in lines(tmp_path) if line["kind"] == "evaluation"}
    assert evaluated == {
        step: {"step": step, "kind": "evaluation", **measured} for step, measured in scores.items()
    }


def test_what_is_told_while_it_runs_is_what_stands_in_the_log(tmp_path):
    progress, evaluations, steps, told = [], [], [], []
    options = {
        "on_progress": progress.append,
        "on_evaluation": lambda step, measured: evaluations.append((step, measured["top1"])),
        "on_step": steps.append,
        "tell": told.append,
    }
    run(tmp_path, options=options)
    assert [each.step for each in progress] == [2, 3, 4, 6, 8, 9]
    assert {each.total_steps for each in progress} == {9}
    assert all(each.values["images_per_second"] > 0 for each in progress)
    assert evaluations == [(line["step"], line["top1"]) for line in lines(tmp_path) if "top1" in line]
    assert steps == list(range(10))
    assert told == []


class CrashError(Exception):
    pass


def crashing(at):
    """Batches that end the run before a step."""

    def make(start_step):
        for step, batch in enumerate(make_batches(start_step), start_step):
            if step == at:
                raise CrashError
            yield batch

    return make


@pytest.mark.parametrize(
    ("at", "asynchronous"), [(1, True), (2, True), (3, True), (5, True), (5, False), (8, True)]
)
def test_a_run_that_ended_anywhere_goes_on_and_ends_bit_identical(tmp_path, at, asynchronous):
    settings = make_settings(
        checkpoint=CheckpointSettings(every_steps=2, every_epochs=None, keep=2, asynchronous=asynchronous)
    )
    expected = run(tmp_path / "undisturbed", settings)
    with pytest.raises(CrashError):
        run(tmp_path / "disturbed", settings, make_batches=crashing(at))
    told = []
    outcome = run(tmp_path / "disturbed", settings, options={"tell": told.append})
    last = max((step for step in (2, 3, 4, 6, 8) if step <= at), default=0)
    assert told == ([f"going on from step {last} of 9"] if last else [])
    assert all(torch.equal(outcome.weights[name], weight) for name, weight in expected.weights.items())
    assert outcome.best == expected.best
    assert lines(tmp_path / "disturbed") == lines(tmp_path / "undisturbed")
    assert checkpoints(tmp_path / "disturbed") == checkpoints(tmp_path / "undisturbed")


def test_a_run_that_ended_in_its_evaluation_evaluates_again(tmp_path):
    def crash(_model):
        raise CrashError

    expected = run(tmp_path / "undisturbed")
    with pytest.raises(CrashError):
        run(tmp_path / "disturbed", evaluate=crash)
    assert checkpoints(tmp_path / "disturbed") == ["step-00000002", "step-00000003"]
    outcome = run(tmp_path / "disturbed")
    assert all(torch.equal(outcome.weights[name], weight) for name, weight in expected.weights.items())
    assert lines(tmp_path / "disturbed") == lines(tmp_path / "undisturbed")


def test_a_finished_run_stays_as_it_is(tmp_path):
    expected = run(tmp_path)
    before = lines(tmp_path)
    again = run(tmp_path, make_batches=crashing(9))
    assert all(torch.equal(again.weights[name], weight) for name, weight in expected.weights.items())
    assert lines(tmp_path) == before
    assert again.best == expected.best


def test_the_newest_checkpoints_and_the_best_stay(tmp_path):
    scores = {3: 0.1, 6: 0.7, 9: 0.7}
    steps = []
    outcome = run(
        tmp_path,
        plan=dataclasses.replace(PLAN, total_steps=12),
        evaluate=lambda model: {"top1": scores.get(steps[-1], 0.2)},
        options={"on_step": steps.append},
    )
    assert checkpoints(tmp_path) == ["best.json", "step-00000006", "step-00000010", "step-00000012"]
    # the first of equals
    assert outcome.best == {"step": 6, "score": 0.7, "top1": 0.7}
    best = json.loads((tmp_path / "checkpoints" / "best.json").read_text())
    assert best["folder"] == "step-00000006"


def test_the_best_is_the_best_by_the_score_that_is_named(tmp_path):
    measured = iter(
        [{"top1": 0.9, "robust": 0.1}, {"top1": 0.1, "robust": 0.9}, {"top1": 0.5, "robust": 0.5}]
    )
    outcome = run(tmp_path, evaluate=lambda model: next(measured), score="robust")
    assert (outcome.best["step"], outcome.best["score"]) == (6, 0.9)


def test_a_run_without_evaluation_has_no_best(tmp_path):
    outcome = run(tmp_path, evaluate=None)
    assert outcome.best == {}
    assert checkpoints(tmp_path) == ["step-00000008", "step-00000009"]


def test_evaluation_sees_a_model_in_evaluation_mode_and_training_goes_on_in_training_mode(tmp_path):
    modes = []
    model = make_model()
    model.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    run(tmp_path, model=model.eval(), plan=dataclasses.replace(PLAN, total_steps=4))
    # two parts a step; evaluations after the third step and at the end
    assert modes == [True] * 6 + [False] + [True] * 2 + [False]


@pytest.mark.parametrize("every_epochs", [1, 2])
def test_checkpoints_may_come_by_epochs(tmp_path, every_epochs):
    settings = make_settings(checkpoint=CheckpointSettings(every_epochs=every_epochs, keep=9))
    run(tmp_path, settings, evaluate=None)
    steps = {1: [3, 6, 9], 2: [6, 9]}[every_epochs]
    assert checkpoints(tmp_path) == [f"step-{step:08d}" for step in steps]


class Spoilt(Objective):
    """Cross entropy times a factor; with factor None the weights become NaN while the loss is finite."""

    def __init__(self, at, factor):
        self.at, self.factor = at, factor

    def passes(self, batch, step):
        images, labels = batch

        def run(model):
            loss = F.cross_entropy(model(images), labels)
            if step == self.at and self.factor is None:
                # finite, and its gradient is not
                loss = loss + (next(model.parameters()).flatten()[0] * 0).sqrt()
            elif step == self.at:
                loss = loss * self.factor
            return {"loss": loss}

        return [run]


@pytest.mark.parametrize(
    ("at", "last", "factor"),
    [(0, None, float("nan")), (3, 3, float("inf")), (4, 4, float("nan")), (8, 8, float("nan"))],
)
def test_a_loss_that_is_not_finite_stops_with_its_step_and_the_last_good_checkpoint_stays(
    tmp_path, at, last, factor
):
    with pytest.raises(RuntimeError, match="expected a finite loss") as raised:
        run(tmp_path, objective=Spoilt(at, factor))
    kept = "nothing was saved before" if last is None else f"the last good checkpoint is of step {last}"
    assert str(raised.value) == (
        f"expected a finite loss, got NaN or infinity at step {at + 1} of 9 (epoch {at // 3 + 1}); {kept}; "
        f"try a learning rate below 0.001"
    )
    if last is not None:
        assert checkpoints(tmp_path)[-1] == f"step-{last:08d}"
    outcome = run(tmp_path)
    assert all(
        torch.equal(outcome.weights[name], weight) for name, weight in run(tmp_path / "good").weights.items()
    )


def test_weights_that_are_not_finite_stop_too(tmp_path):
    with pytest.raises(RuntimeError, match=r"expected finite weights|expected a finite weights") as raised:
        run(tmp_path, objective=Spoilt(8, None))
    assert "at step 9 of 9 (epoch 3); the last good checkpoint is of step 8" in str(raised.value)
    assert "step-00000009" not in checkpoints(tmp_path)


@pytest.mark.parametrize("at", [0, 1, 4])
def test_sigterm_saves_and_the_run_goes_on_bit_for_bit(tmp_path, at):
    def stop_at(step):
        if step == at:
            os.kill(os.getpid(), signal.SIGTERM)

    expected = run(tmp_path / "undisturbed")
    outcome = run(tmp_path / "stopped", options={"on_step": stop_at})
    assert (outcome.finished, outcome.step, outcome.weights) == (False, at, {})
    if at:
        assert f"step-{at:08d}" in checkpoints(tmp_path / "stopped")
    told = []
    outcome = run(tmp_path / "stopped", options={"tell": told.append})
    assert told == ([f"going on from step {at} of 9"] if at else [])
    assert all(torch.equal(outcome.weights[name], weight) for name, weight in expected.weights.items())


def test_sigterm_in_an_evaluation_ends_it_at_once(tmp_path):
    def evaluate(model):
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("went on")

    expected = run(tmp_path / "undisturbed")
    outcome = run(tmp_path / "stopped", evaluate=evaluate)
    assert (outcome.finished, outcome.step) == (False, 3)
    assert [line["step"] for line in lines(tmp_path / "stopped")] == [2, 3]
    outcome = run(tmp_path / "stopped")
    assert all(torch.equal(outcome.weights[name], weight) for name, weight in expected.weights.items())
    assert lines(tmp_path / "stopped") == lines(tmp_path / "undisturbed")


def test_who_calls_may_listen_for_the_signal_already(tmp_path):
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        outcome = run(tmp_path, options={"stop": stop})
    assert (outcome.finished, outcome.step) == (False, 0)
    assert not (tmp_path / "checkpoints").exists()


def test_batches_are_closed_however_a_run_ends(tmp_path):
    closed = []

    def closing(inner):
        def make(start_step):
            try:
                yield from inner(start_step)
            finally:
                closed.append(1)

        return make

    run(tmp_path / "a", make_batches=closing(make_batches))
    with pytest.raises(CrashError):
        run(tmp_path / "b", make_batches=closing(crashing(4)))
    run(
        tmp_path / "c",
        make_batches=closing(make_batches),
        options={"on_step": lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 4 else None},
    )
    assert len(closed) == 3


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    identity = {"optimizer": {"lr": 0.1}}
    run(tmp_path, plan=dataclasses.replace(PLAN, total_steps=2), options={"identity": identity})
    with pytest.raises(ValueError, match=r"optimizer\.lr is 0\.1 there and 0\.2 now"):
        run(tmp_path, options={"identity": {"optimizer": {"lr": 0.2}}})


def test_a_log_that_cannot_be_written_ends_the_run_and_the_last_checkpoint_stays(tmp_path, monkeypatch):
    expected = run(tmp_path / "undisturbed")
    write = RunLog.write

    def full(log, kind, step, values):
        if step == 4:
            raise OSError(f"could not write {tmp_path}: No space left on device")
        write(log, kind, step, values)

    monkeypatch.setattr(RunLog, "write", full)
    with pytest.raises(OSError, match="No space left on device"):
        run(tmp_path / "disturbed")
    monkeypatch.undo()
    assert checkpoints(tmp_path / "disturbed")[-1] == "step-00000003"
    outcome = run(tmp_path / "disturbed")
    assert all(torch.equal(outcome.weights[name], weight) for name, weight in expected.weights.items())
    assert lines(tmp_path / "disturbed") == lines(tmp_path / "undisturbed")


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="Not a directory"):
        run(tmp_path / "file" / "run")


def test_a_missing_tracker_is_said_before_the_first_step(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    steps = []
    with pytest.raises(RuntimeError, match="expected the package wandb"):
        run(tmp_path, make_settings(logging=LoggingSettings(wandb="a")), options={"on_step": steps.append})
    assert steps == []


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize(
    "training",
    [{"channels_last": True}, {"precision": "bfloat16"}, {"precision": "float16"}],
    ids=str,
)
def test_ways_to_compute_train_the_same_model_up_to_rounding(tmp_path, training, parallel):
    settings = make_settings(
        training=TrainingSettings(epochs=3, batch_size=4, parallel=parallel, **training),
        evaluation=EvaluationSettings(every_epochs=3),
    )
    evaluate = {"evaluate": None}
    found = run(tmp_path, settings, model=make_model().float(), make_batches=float_batches, **evaluate)
    expected = by_hand()[0]
    for name, weight in found.weights.items():
        assert weight.dtype == torch.float
        torch.testing.assert_close(weight.double(), expected[name], rtol=0, atol=0.1)


def float_batches(start_step):
    for micro_batches in make_batches(start_step):
        yield [(images.float(), labels) for images, labels in micro_batches]
