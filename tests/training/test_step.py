import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tapadl
from tapadl.training.objective import Objective, SupervisedObjective
from tapadl.training.optimizer import build_optimizer, build_schedule
from tapadl.training.randomness import reseed
from tapadl.training.settings import OptimizerSettings, ScheduleSettings
from tapadl.training.state import TrainingState
from tapadl.training.step import Stepper
from tapadl.training.weight_average import WeightAverage

# how many images a run has in all
CUTS = {
    "2 x 4": 8,
    "2 x 2 x 2": 8,
    "unequal processes": 9,
    "unequal processes and parts": 11,
    "2 x 4, sharded": 8,
    "unequal processes and parts, sharded": 15,
}


@pytest.fixture
def single(runs, one_process):
    """A step of one process on all images at once."""
    return runs.take_step([8])


def gradient_by_hand(runs, weight, tau):
    """Clean images with ADL, augmented ones without: torch's sum of the two, on all images at once."""
    model = runs.make_model()
    images, labels = runs.IMAGES[:8], runs.LABELS[:8]
    F.cross_entropy(model(-images), labels).backward()
    diversification = tapadl.AttentionDiversificationLoss(model, tau=tau)
    loss = F.cross_entropy(model(images), labels) + weight * diversification()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    return {name: p.grad for name, p in model.named_parameters()}, loss, norm


def test_the_gradient_is_the_one_that_torch_gives(runs, single):
    gradients, loss, norm = gradient_by_hand(runs, weight=1.0, tau=2.0)
    for name, gradient in gradients.items():
        torch.testing.assert_close(single["gradients"][name], gradient, rtol=1e-12, atol=1e-14)
    assert single["logged"]["gradient_norm"] == pytest.approx(norm.item(), rel=1e-6)
    augmented = single["logged"]["augmented_cross_entropy"]
    assert single["logged"]["loss"] == pytest.approx(loss.item() + augmented, rel=1e-6)


def test_tap_and_adl_take_part_in_what_is_compared(runs, single):
    without, _, _ = gradient_by_hand(runs, weight=0.0, tau=2.0)
    assert (
        single["gradients"]["blocks.0.attn.qkv.weight"] - without["blocks.0.attn.qkv.weight"]
    ).abs().max() > (1e-5)
    of_tap = [name for name in without if ".tap." in name]
    assert of_tap
    assert max(single["gradients"][name].abs().max() for name in of_tap) > 1e-6


@pytest.mark.parametrize("sizes", [[2, 2, 2, 2], [3, 4, 1]], ids=str)
def test_accumulated_parts_give_the_gradient_of_the_whole_batch(runs, single, sizes):
    assert_same_step(runs.take_step(sizes), single)


@pytest.mark.slow
@pytest.mark.parametrize("cut", CUTS)
def test_processes_give_the_gradient_of_one(in_processes, runs, one_process, cut):
    expected = runs.take_step([CUTS[cut]])
    for found in in_processes[cut]:
        assert_same_step(found, expected)


def assert_same_step(found, expected):
    for kind in ("gradients", "weights"):
        assert found[kind].keys() == expected[kind].keys()
        for name, value in expected[kind].items():
            torch.testing.assert_close(found[kind][name], value, rtol=1e-9, atol=1e-12)
    assert found["adapted"] == pytest.approx(expected["adapted"], rel=1e-6)
    assert found["adapted"]["adl_weight"] != 1
    assert found["adapted"]["adl_tau"] != 2
    assert found["logged"] == pytest.approx(expected["logged"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("run", ["overflow", "overflow, sharded"])
def test_a_gradient_that_is_infinite_in_one_process_is_skipped_by_all(in_processes, run):
    for found in in_processes[run]:
        assert torch.equal(found["weights"], torch.ones(2, 3))
        assert found["scale"] == 2.0**15


class Scripted(Objective):
    """A loss that is the sum of the weights times a number for each step; hears what is measured."""

    def __init__(self, factors, measured_steps=(), probed=True):
        self.factors = factors
        self.measured_steps = measured_steps
        self.probed = probed
        self.heard = []

    def passes(self, batch, step):
        return [lambda model: {"loss": model(batch[0]).float().sum() * self.factors[step]}]

    def measures(self, step):
        return step in self.measured_steps

    def probes(self, batch, step):
        return [lambda model: {"loss": model(batch[0]).float().sum() * 7}] if self.probed else ()

    def observe(self, measured):
        self.heard.append(dict(measured))


BATCH = (torch.ones(1, 1), torch.zeros(1, dtype=torch.int64))


def make_stepper(
    runs, model, objective, *, precision="float32", average=False, optimizer=None, schedule=None
):
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.5)
    scaler = torch.amp.GradScaler("cpu", enabled=precision == "float16", init_scale=4.0, growth_interval=2)
    state = TrainingState(model, optimizer, scaler, objective, WeightAverage(model, 0.5) if average else None)
    settings = dataclasses.replace(
        runs.make_settings(precision=precision, seed=5), optimizer=OptimizerSettings()
    )
    stepper = Stepper(settings, state, schedule or runs.ConstantSchedule(), model, runs.CPU)
    return stepper, state


def test_float16_skips_a_step_with_infinite_gradients_and_goes_on(runs, one_process):
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    stepper, state = make_stepper(
        runs, model, Scripted([1.0, 1e5, 0.5, 0.25]), precision="float16", average=True
    )
    weights, scales, average = [], [], 0.0
    for step in range(4):
        state.step = step
        stepper.step([BATCH], images_of_step=1)
        weights.append(model.weight.item())
        average = (average + weights[-1]) / 2
        scales.append(state.scaler.get_scale())
    assert weights == [-0.5, -0.5, -0.75, -0.875]
    assert scales == [4.0, 2.0, 2.0, 4.0]
    assert state.average.tensors["weight"].item() == average


@pytest.mark.parametrize("probed", [True, False])
def test_what_a_measuring_step_finds_is_told_without_the_scale_of_float16(runs, one_process, probed):
    model = nn.Linear(1, 1, bias=False)
    objective = Scripted([2.0, 2.0, 2.0], measured_steps=(1,), probed=probed)
    stepper, state = make_stepper(runs, model, objective, precision="float16")
    for step in range(3):
        state.step = step
        parts = stepper.step([BATCH, BATCH], images_of_step=2)
        assert ("gradient_norm" in parts) == (step == 1)
    (heard,) = objective.heard
    assert heard["gradient_norm"] == pytest.approx(2.0)
    assert heard.get("probe_norm") == (pytest.approx(7.0) if probed else None)
    assert "loss" in heard


def test_a_probe_leaves_no_gradient_behind(runs, one_process):
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    stepper, _ = make_stepper(runs, model, Scripted([1.0], measured_steps=(0,)))
    stepper.step([BATCH], images_of_step=1)
    assert model.weight.item() == -0.5


def test_a_probe_does_not_count_its_images_in_batch_norms(runs, one_process):
    counted = []
    for probed in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
        stepper, _ = make_stepper(runs, model, Scripted([1.0], measured_steps=(0,), probed=probed))
        batch = torch.randn(4, 1, 3, 3, generator=torch.Generator().manual_seed(1)), torch.zeros(4)
        stepper.step([batch], images_of_step=4)
        counted.append(model[1])
    assert torch.equal(counted[0].running_mean, counted[1].running_mean)
    assert counted[1].num_batches_tracked == 1
    assert counted[1].momentum == 0.1


class Drawing(Objective):
    """Reports what it draws, when it plans and when it runs."""

    def passes(self, batch, step):
        planned = torch.rand(())
        return [
            lambda model: {"loss": model(batch[0]).sum(), "planned": planned, "drawn": torch.rand(())},
        ]


def test_what_is_drawn_follows_from_the_step_alone(runs, one_process):
    stepper, state = make_stepper(runs, nn.Linear(1, 1), Drawing())
    state.step = 9
    torch.manual_seed(77)
    first = stepper.step([BATCH], images_of_step=1)
    torch.manual_seed(78)
    second = stepper.step([BATCH], images_of_step=1)
    reseed(5, 9, 0)
    expected = [torch.rand(()), torch.rand(())]
    for parts in (first, second):
        assert [parts["planned"], parts["drawn"]] == expected
    state.step = 10
    assert stepper.step([BATCH], images_of_step=1)["drawn"] != expected[1]


def test_every_learning_rate_is_that_of_timms_schedule(runs, one_process):
    model = nn.Linear(1, 1)
    optimizer = build_optimizer(model, OptimizerSettings(lr=0.5))
    schedule = build_schedule(optimizer, ScheduleSettings(), total_steps=5, warmup_steps=2)
    twin = build_optimizer(copy.deepcopy(model), OptimizerSettings(lr=0.5))
    expected = build_schedule(twin, ScheduleSettings(), total_steps=5, warmup_steps=2)
    stepper, state = make_stepper(runs, model, Scripted([0.0] * 5), optimizer=optimizer, schedule=schedule)
    for step in (3, 4, 0):
        state.step = step
        stepper.step([BATCH], images_of_step=1)
        expected.step_update(step)
        assert optimizer.param_groups[0]["lr"] == twin.param_groups[0]["lr"]


def test_images_reach_the_model_channels_last_where_asked(runs, one_process):
    seen = []
    model = nn.Conv2d(3, 2, 1)
    model.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    objective = SupervisedObjective(lambda logits, _: logits.mean())
    state = TrainingState(
        model, torch.optim.SGD(model.parameters()), torch.amp.GradScaler("cpu", enabled=False), objective
    )
    for channels_last in (True, False):
        settings = runs.make_settings(channels_last=channels_last)
        stepper = Stepper(settings, state, runs.ConstantSchedule(), model, runs.CPU)
        stepper.step([(torch.randn(2, 3, 4, 5), torch.zeros(2))], images_of_step=2)
        assert seen.pop().is_contiguous(memory_format=torch.channels_last) == channels_last
