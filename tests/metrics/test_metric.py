"""Any batching and any split over processes gives the same value, to the last bit."""

import copy
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tapadl.metrics import FlipProbability, MeanIoU

SCRIPT = Path(__file__).with_name("batches.py")
specification = importlib.util.spec_from_file_location("batches", SCRIPT)
batches = importlib.util.module_from_spec(specification)
specification.loader.exec_module(batches)

WHOLE = torch.arange(batches.SIZE)


@pytest.fixture(scope="module")
def distributed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_processes")
    running = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(rank), str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=120)[0].decode() for process in running]
    finally:
        for process in running:
            process.kill()
    assert all(process.returncode == 0 for process in running), "\n".join(outputs)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", batches.CASES)
@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(batches.SIZE)), cuts=st.sets(st.integers(1, batches.SIZE - 1)))
def test_any_batching_and_order_gives_the_same_bits(name, order, cuts):
    whole = batches.count(name, [WHOLE])
    metric = batches.count(name, list(torch.tensor(order).tensor_split(sorted(cuts))))
    assert torch.equal(metric.counts, whole.counts)
    assert metric.compute() == whole.compute()


@pytest.mark.parametrize("name", batches.CASES)
def test_values_depend_on_the_data(name):
    assert batches.count(name, [WHOLE]).compute() != batches.count(name, [WHOLE[:5]]).compute()


@pytest.mark.parametrize("name", batches.CASES)
def test_two_processes_give_the_bits_of_one(distributed, name):
    expected = batches.count(name, [WHOLE]).compute()
    for computed in distributed:
        assert computed[name] == (expected, expected)


def test_sequences_of_other_lengths_in_another_process_are_refused(distributed):
    for computed in distributed:
        assert (
            "expected sequences of one length in all processes, got different ones"
            in computed["mixed lengths"]
        )


@pytest.mark.parametrize("name", batches.CASES)
def test_saved_counts_continue_where_a_run_ended(name):
    whole = batches.count(name, [WHOLE])
    continued = batches.count(name, [WHOLE[7:]])
    continued.add_counts(batches.count(name, [WHOLE[:7]]).counts)
    assert continued.compute() == whole.compute()


@pytest.mark.parametrize("name", batches.CASES)
def test_reset_forgets_everything(name):
    metric = batches.count(name, [WHOLE])
    metric.sync()
    metric.reset()
    with pytest.raises(
        RuntimeError, match=r"expected something counted before \w+\.compute\(\), got nothing"
    ):
        metric.compute()
    _, data = batches.CASES[name]
    metric.update(*(values[:5] for values in data))
    assert metric.compute() == batches.count(name, [WHOLE[:5]]).compute()


def test_what_was_counted_under_inference_mode_counts_on_outside_it():
    with torch.inference_mode():
        metric = batches.count("masks", [WHOLE[:5]])
    metric.update(*(values[WHOLE[5:]] for values in batches.CASES["masks"][1]))
    assert metric.compute() == batches.count("masks", [WHOLE]).compute()
    with torch.inference_mode():
        metric.update(*batches.CASES["masks"][1])
    metric.reset()
    metric.update(*batches.CASES["masks"][1])
    assert metric.compute() == batches.count("masks", [WHOLE]).compute()


def test_one_process_keeps_its_counts():
    metric = batches.count("masks", [WHOLE])
    before = metric.counts
    metric.sync()
    assert torch.equal(metric.counts, before)


def test_counts_are_a_copy_and_copies_count_on_their_own():
    metric = batches.count("masks", [WHOLE])
    value = metric.compute()
    metric.counts.zero_()
    other = copy.deepcopy(metric)
    other.update(batches.MASKS[1].clamp(max=4), batches.MASKS[1])
    assert metric.compute() == value != other.compute()


def test_after_sync_nothing_counts_until_reset():
    metric = FlipProbability()
    frames = torch.tensor([[1, 2, 2]])
    metric.update(frames)
    metric.sync()
    for call, name in ((metric.sync, "sync"), (lambda: metric.update(frames), "update")):
        with pytest.raises(
            RuntimeError, match=rf"expected {name}\(\) before sync\(\), got it after.*reset\(\)"
        ):
            call()
    assert metric.compute() == 0.5


@pytest.mark.parametrize("counts", [torch.zeros(3, 3, dtype=torch.int64), torch.zeros(2, 2)])
def test_counts_of_another_metric_are_refused(counts):
    with pytest.raises(ValueError, match=r"expected counts of shape \(2, 2\) and dtype torch.int64, got"):
        MeanIoU(2).add_counts(counts)


@pytest.mark.gpu
@pytest.mark.parametrize("name", batches.CASES)
def test_a_gpu_gives_the_counts_of_the_cpu(name):
    make, data = batches.CASES[name]
    metric = make()
    metric.update(*(values.cuda() for values in data))
    assert metric.counts.is_cuda
    assert metric.compute() == batches.count(name, [WHOLE]).compute()
