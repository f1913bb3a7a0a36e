import pytest
import torch

from tapadl.training.meter import Meter

CPU = torch.device("cpu")


def read(meter):
    values = meter.read()
    assert values.pop("images_per_second") > 0
    return values


def test_means_are_those_since_it_was_last_read(one_process):
    meter = Meter(CPU)
    meter.add(1, {"loss": torch.tensor(1.0)}, images=4)
    meter.add(2, {"loss": torch.tensor(2.0)}, images=4)
    assert read(meter) == {"loss": 1.5}
    meter.add(3, {"loss": torch.tensor(5.0)}, images=4)
    assert read(meter) == {"loss": 5.0}


def test_what_is_not_there_in_every_step_is_averaged_over_its_own(one_process):
    meter = Meter(CPU)
    meter.add(1, {"loss": torch.tensor(1.0), "gradient_norm": torch.tensor(8.0)}, images=4)
    meter.add(2, {"loss": torch.tensor(3.0)}, images=4)
    assert read(meter) == {"loss": 2.0, "gradient_norm": 8.0}


def test_without_a_step_there_is_a_speed_alone(one_process):
    assert Meter(CPU).read() == {"images_per_second": 0.0}


def test_speed_is_images_over_seconds(one_process, monkeypatch):
    now = iter([10.0, 14.0, 14.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    meter = Meter(CPU)
    meter.add(1, {"loss": torch.tensor(1.0)}, images=6)
    meter.add(2, {"loss": torch.tensor(1.0)}, images=2)
    assert meter.read()["images_per_second"] == 2.0


def test_the_time_of_an_evaluation_does_not_count(one_process, monkeypatch):
    now = iter([10.0, 11.0, 31.0, 32.0, 32.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    meter = Meter(CPU)
    meter.add(1, {"loss": torch.tensor(1.0)}, images=8)
    with meter.paused():
        pass
    assert meter.read()["images_per_second"] == 4.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_the_first_step_whose_loss_is_not_finite_is_remembered(one_process, bad):
    meter = Meter(CPU)
    for step, loss in enumerate([1.0, 2.0, bad, 1.0, bad], start=1):
        assert meter.first_bad_step() == (None if step < 4 else 3)
        meter.add(step, {"loss": torch.tensor(loss)}, images=1)
        meter.read()
    assert meter.first_bad_step() == 3


@pytest.mark.slow
def test_reports_of_processes_add_up_and_a_bad_loss_of_one_is_known_to_all(in_processes):
    for found in in_processes["meter"]:
        assert found["values"].pop("images_per_second") > 0
        assert found["values"] == {"loss": ((1 + 2) + (5 + 4)) / 2, "rare": 8.0}
        assert found["bad before"] is None
        assert found["bad"] == 3
