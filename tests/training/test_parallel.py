import os
import threading
import time

import pytest
import timm
import torch
import torch.distributed as dist
from torch import nn

import tapadl
from tapadl.models.batch_norm import BatchNorm2d, SyncBatchNorm
from tapadl.training.parallel import (
    _unused_part,
    distribute,
    gradient_norm,
    joined,
    over_processes,
    share_buffers,
    with_sync_batch_norm,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def alone(runs, tmp_path_factory):
    """A run of one process."""
    with joined(CPU):
        return runs.run_through(tmp_path_factory.mktemp("alone"))


def test_alone_a_process_is_a_group_of_one_for_as_long_as_the_block_lasts(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert not dist.is_initialized()
    with joined(CPU):
        assert (dist.get_rank(), dist.get_world_size()) == (0, 1)
        with joined(CPU):
            assert dist.is_initialized()
        assert dist.is_initialized()
    assert not dist.is_initialized()


def test_a_group_is_left_also_after_an_error():
    with pytest.raises(RuntimeError, match="on purpose"), joined(CPU):
        raise RuntimeError("on purpose")
    assert not dist.is_initialized()


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_alone_a_process_gets_its_model_back_as_it_is(one_process, parallel):
    model = nn.Linear(2, 2)
    assert distribute(model, parallel, [model]) is model
    assert type(model.weight) is nn.Parameter


def test_numbers_are_summed_without_a_change_of_what_is_given(one_process):
    values = torch.tensor([1.5, float("inf")], dtype=torch.double)
    assert over_processes(values) == [1.5, float("inf")]
    assert over_processes(values, dist.ReduceOp.MIN) == [1.5, float("inf")]
    assert values.tolist() == [1.5, float("inf")]


@pytest.mark.slow
def test_all_processes_begin_with_the_weights_of_the_first(in_processes):
    first, second = (found["begun"] for found in in_processes["unlike"])
    torch.manual_seed(0)
    expected = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).state_dict()
    for name, tensor in expected.items():
        assert torch.equal(first[name], tensor)
        assert torch.equal(second[name], tensor)


@pytest.mark.slow
def test_all_processes_go_on_with_the_statistics_of_the_first(in_processes):
    assert [found["shared"].tolist() for found in in_processes["unlike"]] == [[1.0] * 3] * 2


def test_buffers_of_every_kind_stay_as_they_are_in_one_process(one_process):
    model = nn.BatchNorm1d(3)
    model.register_buffer("empty", torch.empty(0))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    share_buffers(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_gradient_norm_is_that_of_all_parameters_together():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1), nn.Linear(1, 1))
    model[:2](torch.randn(4, 3)).square().mean().backward()
    expected = torch.cat([p.grad.flatten() for p in model[:2].parameters()]).norm()
    torch.testing.assert_close(gradient_norm(model, None), expected)


@pytest.mark.parametrize("largest", [0.1, 1e6])
def test_a_gradient_is_scaled_down_as_torch_clips_it(largest):
    model = nn.Linear(3, 2)
    model(torch.randn(4, 3)).square().mean().backward()
    twin = nn.Linear(3, 2)
    for theirs, ours in zip(twin.parameters(), model.parameters(), strict=True):
        theirs.grad = ours.grad.clone()
    expected = nn.utils.clip_grad_norm_(twin.parameters(), largest)
    torch.testing.assert_close(gradient_norm(model, largest), expected)
    for theirs, ours in zip(twin.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.gpu
def test_batch_norms_that_end_with_an_activation_keep_it_when_processes_share_them(monkeypatch):
    monkeypatch.setattr(dist, "get_world_size", lambda group=None: 2)
    monkeypatch.setattr(dist, "broadcast", lambda tensor, src: None)
    monkeypatch.setattr("tapadl.training.parallel.DistributedDataParallel", lambda model, **_: model)
    monkeypatch.setattr("tapadl.training.parallel._settle_buckets", lambda wrapped: None)
    norm = timm.layers.BatchNormAct2d(3)
    model = distribute(nn.Sequential(norm).cuda().eval(), "ddp")
    images = torch.randn(2, 3, 4, 4, device="cuda")
    assert isinstance(model[0], nn.SyncBatchNorm)
    assert torch.equal(model(images), norm.cuda().eval()(images))
    assert model(images).min() == 0


@pytest.mark.slow
@pytest.mark.parametrize("run", ["run", "run, sharded"])
def test_processes_go_on_bit_for_bit(in_processes, run):
    """Of three numbers the sum depends on the order, and the order in DDP on how it lays out its buckets."""
    for found in in_processes[run]:
        undisturbed, resumed = found["undisturbed"], found["resumed"]
        assert resumed["weights"].keys() == undisturbed["weights"].keys()
        for name, weight in undisturbed["weights"].items():
            assert torch.equal(resumed["weights"][name], weight), name
        assert resumed["best"] == undisturbed["best"]
        assert [without_speed(line) for line in resumed["log"]] == [
            without_speed(line) for line in undisturbed["log"]
        ]


def without_speed(line):
    return {name: value for name, value in line.items() if name != "images_per_second"}


def numbers(line):
    return {name: value for name, value in without_speed(line).items() if name != "kind"}


@pytest.mark.slow
@pytest.mark.parametrize("run", ["run", "run, accumulated", "run, sharded"])
def test_several_processes_end_with_the_weights_of_one(in_processes, runs, alone, run):
    expected = alone
    found = in_processes[run][-1]
    found = found.get("undisturbed", found)
    for name, weight in expected["weights"].items():
        torch.testing.assert_close(found["weights"][name], weight, rtol=1e-9, atol=1e-11)
    moved = runs.make_model().state_dict()["head.weight"] - expected["weights"]["head.weight"]
    assert moved.abs().max() > 1e-4
    assert found["best"] == pytest.approx(expected["best"])
    for ours, theirs in zip(found["log"], expected["log"], strict=True):
        assert (ours["kind"], ours["step"]) == (theirs["kind"], theirs["step"])
        assert numbers(ours) == pytest.approx(numbers(theirs), rel=1e-5)


@pytest.mark.slow
def test_a_loss_that_is_nan_in_one_process_ends_all_of_them_with_the_step(in_processes):
    for found in in_processes["run, spoilt"]:
        assert found["error"].startswith(
            "RuntimeError: expected a finite loss, got NaN or infinity at step 4 of 4 (epoch 2); "
            "the last good checkpoint is of step 2; try a learning rate below"
        )
        assert found["kept"] == ["best.json", "step-00000002"]


@pytest.mark.slow
@pytest.mark.parametrize("run", ["run, spoilt", "run, full disk"])
def test_what_is_left_after_a_failure_can_be_gone_on_with(in_processes, alone, run):
    expected = alone["weights"]
    for found in in_processes[run]:
        for name, weight in found["after"]["weights"].items():
            torch.testing.assert_close(weight, expected[name], rtol=1e-9, atol=1e-11)


@pytest.mark.slow
def test_a_disk_that_is_full_for_one_process_ends_all_of_them_with_a_sentence(in_processes):
    for found in in_processes["run, full disk"]:
        assert found["error"].startswith("OSError: could not write the checkpoint ")
        assert found["error"].endswith("step-00000004: File too large; the last good one is step-00000002")
        assert found["kept"] == ["best.json", "step-00000002"]


@pytest.mark.parametrize("late", [0, 1, 2])
def test_processes_that_are_started_again_do_not_read_what_those_before_have_left(late):
    """Threads that share a store, as torchrun's processes do; one of them comes later than the others."""
    store, found = dist.HashStore(), {}

    def start(again, rank):
        time.sleep(0.1 if rank == late else 0)
        part = _unused_part(store, rank, 3)
        part.set(f"address of {rank}", f"{again}")
        found[again, rank] = [part.get(f"address of {other}").decode() for other in range(3)]

    for again in range(2):
        threads = [threading.Thread(target=start, args=(again, rank), daemon=True) for rank in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # and a start that ended on the way leaves these
        store.add("tapadl/part", 1)
        store.add("tapadl/ticket/2", 1)
    assert found == {(again, rank): [str(again)] * 3 for again in range(2) for rank in range(3)}


def test_the_number_of_processes_comes_from_torchrun(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ValueError, match="RANK"), joined(CPU):
        pass
    assert "RANK" not in os.environ


def test_batch_norms_of_all_processes_keep_their_hooks_and_count_once():
    model = nn.Sequential(nn.BatchNorm2d(3), BatchNorm2d(3), nn.Conv2d(3, 3, 1))
    calls = []
    handle = model[0].register_forward_pre_hook(lambda _module, _inputs: calls.append("before"))
    model[1].register_forward_hook(
        lambda _module, _inputs, kwargs, _output: calls.append("after"), with_kwargs=True
    )
    expected = model.eval()(images := torch.randn(2, 3, 4, 5))
    calls.clear()
    converted = with_sync_batch_norm(model)
    assert isinstance(converted[0], nn.SyncBatchNorm)
    assert isinstance(converted[1], SyncBatchNorm)
    assert torch.equal(converted(images), expected)
    assert calls == ["before", "after"]
    handle.remove()
    converted(images)
    assert calls == ["before", "after", "after"]


def test_tap_in_front_of_a_batch_norm_stays():
    model = tapadl.attach_tap(timm.create_model("visformer_tiny", num_classes=3)).eval()
    images = torch.randn(1, 3, 224, 224)
    expected = model(images)
    assert torch.equal(with_sync_batch_norm(model)(images), expected)
    assert not torch.equal(tapadl.detach_tap(model)(images), expected)
