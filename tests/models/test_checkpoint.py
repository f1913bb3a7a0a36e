import argparse
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tapadl.models.checkpoint import read_state_dict

WEIGHTS = {"head.weight": torch.arange(6.0).reshape(2, 3), "head.bias": torch.ones(2)}


def assert_same(read, weights=WEIGHTS):
    assert list(read) == list(weights)
    for name, tensor in weights.items():
        torch.testing.assert_close(read[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("wrapper", ["", "model", "state_dict", "state_dict_ema", "model_ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod."])
def test_weights_are_found_in_the_wrappers_of_training_scripts(tmp_path, wrapper, prefix):
    weights = {prefix + name: tensor for name, tensor in WEIGHTS.items()}
    torch.save({wrapper: weights, "epoch": 3} if wrapper else weights, tmp_path / "checkpoint.pth")
    read, found = read_state_dict(tmp_path / "checkpoint.pth")
    assert_same(read)
    assert found == wrapper


def test_the_average_of_the_weights_comes_first(tmp_path):
    average = {name: 2 * tensor for name, tensor in WEIGHTS.items()}
    torch.save({"state_dict": WEIGHTS, "state_dict_ema": average}, tmp_path / "checkpoint.pth")
    read, found = read_state_dict(tmp_path / "checkpoint.pth")
    assert_same(read, average)
    assert found == "state_dict_ema"


@pytest.mark.parametrize("legacy", [False, True])
def test_harmless_classes_beside_the_weights_are_read_as_plain_data(tmp_path, legacy):
    path = tmp_path / "checkpoint.pth.tar"
    beside = {
        "args": argparse.Namespace(lr=0.1, betas=(0.9, 0.999), path=Path("data")),
        "metric": np.float64(83.9),
        "arch": "fan",
    }
    torch.save({"state_dict": WEIGHTS, **beside}, path, _use_new_zipfile_serialization=not legacy)
    assert_same(read_state_dict(path)[0])


def test_safetensors_are_read(tmp_path):
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    read, found = read_state_dict(tmp_path / "model.safetensors")
    assert_same({name: read[name] for name in WEIGHTS})
    assert found == ""


class Malicious:
    """Its pickle calls `open` for writing."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


class Foreign:
    pass


@pytest.mark.parametrize("legacy", [False, True])
def test_no_code_of_a_malicious_file_runs(tmp_path, legacy):
    path, traces = tmp_path / "checkpoint.pth", tmp_path / "traces"
    torch.save(
        {"state_dict": WEIGHTS, "x": Malicious(traces)}, path, _use_new_zipfile_serialization=not legacy
    )
    with pytest.raises(
        ValueError, match=r"checkpoint.pth holds _?io.open, which is not known to be harmless"
    ):
        read_state_dict(path)
    assert not traces.exists()


def test_a_namespace_that_carries_a_malicious_object_runs_nothing(tmp_path):
    path, traces = tmp_path / "checkpoint.pth", tmp_path / "traces"
    torch.save({"state_dict": WEIGHTS, "args": argparse.Namespace(x=Malicious(traces))}, path)
    with pytest.raises(ValueError, match="not known to be harmless"):
        read_state_dict(path)
    assert not traces.exists()


def test_a_pickle_without_torch_runs_nothing_either(tmp_path):
    path, traces = tmp_path / "checkpoint.pth", tmp_path / "traces"
    path.write_bytes(pickle.dumps({"state_dict": Malicious(traces)}))
    with pytest.raises(ValueError, match=r"checkpoint\.pth"):
        read_state_dict(path)
    assert not traces.exists()


def test_a_foreign_class_is_refused_by_name(tmp_path):
    torch.save({"state_dict": WEIGHTS, "x": Foreign()}, tmp_path / "checkpoint.pth")
    with pytest.raises(ValueError, match=rf"holds {Foreign.__module__}.Foreign, which is not known"):
        read_state_dict(tmp_path / "checkpoint.pth")


@pytest.mark.parametrize("name", ["checkpoint.pth", "model.safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, 0.999])
def test_a_file_cut_short_is_said_to_be(tmp_path, name, kept):
    path = tmp_path / name
    save = save_file if name.endswith("safetensors") else torch.save
    save({"weight": torch.randn(100, 100)}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ValueError, match=rf"{name}") as refusal:
        read_state_dict(path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3}, r"expected weights in c.pth, .* found a dictionary with epoch"),
        ([1, 2], "found a list"),
        ({}, "found a dictionary with nothing"),
        ({"state_dict": {}}, "found a dictionary with state_dict"),
    ],
)
def test_a_file_without_weights_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "c.pth")
    with pytest.raises(ValueError, match=message):
        read_state_dict(tmp_path / "c.pth")


def test_a_missing_file_and_a_folder_are_said_to_be(tmp_path):
    with pytest.raises(ValueError, match=r"expected a checkpoint at .*nothing.pth, found no file"):
        read_state_dict(tmp_path / "nothing.pth")
    with pytest.raises(ValueError, match="found a folder"):
        read_state_dict(tmp_path)


@pytest.mark.parametrize("content", [np.random.default_rng(0).bytes(1000), b"<!DOCTYPE html>", b"PK\3\4zip"])
def test_what_is_no_checkpoint_is_refused_without_torch_s_advice_to_read_it_unsafely(tmp_path, content):
    (tmp_path / "c.pth").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"c\.pth is no checkpoint of torch, .* short \([^()]+\)$"
    ) as refusal:
        read_state_dict(tmp_path / "c.pth")
    assert "weights_only" not in str(refusal.value)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1, 3).expand(10**10, 3),
        torch.zeros(2, 3, device="meta"),
        torch.zeros(2, 3).to_sparse(),
    ],
)
def test_weights_whose_numbers_are_not_in_the_file_are_refused(tmp_path, tensor):
    torch.save(WEIGHTS | {"head.weight": tensor}, tmp_path / "c.pth")
    with pytest.raises(ValueError, match=r"expected all \(\d+, 3\) numbers of head.weight in c.pth"):
        read_state_dict(tmp_path / "c.pth")


def test_a_small_file_that_unpacks_to_a_large_one_is_refused(tmp_path):
    torch.save({"weight": torch.zeros(10**6)}, tmp_path / "plain.pth")
    plain, packed = zipfile.ZipFile(tmp_path / "plain.pth"), tmp_path / "c.pth"
    with plain, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in plain.namelist():
            archive.writestr(name, plain.read(name))
    assert packed.stat().st_size < 10**5
    with pytest.raises(ValueError, match=r"c\.pth is .* \(it unpacks to 4\d{6} bytes, more than it has\)"):
        read_state_dict(packed)


def test_no_damaged_byte_ends_in_another_error(tmp_path):
    path = tmp_path / "c.pth"
    torch.save({"state_dict": WEIGHTS, "args": argparse.Namespace(lr=0.1)}, path)
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(whole)
        for position in generator.integers(0, len(whole), 5):
            damaged[position] = generator.integers(256)
        path.write_bytes(damaged)
        try:
            weights, _ = read_state_dict(path)
        except ValueError as refusal:
            assert "\n" not in str(refusal)  # noqa: PT017
        else:
            assert all(isinstance(tensor, torch.Tensor) for tensor in weights.values())
