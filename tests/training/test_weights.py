import hashlib

import pytest
import torch
from torch import nn

from tapadl.training.weights import load_weights, save_weights


def test_weights_and_buffers_survive_a_round_trip(tmp_path):
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    model(torch.randn(5, 3))
    digest = save_weights(model, tmp_path / "m.safetensors")
    again = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    assert load_weights(again, tmp_path / "m.safetensors") == digest
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    assert digest == hashlib.sha256((tmp_path / "m.safetensors").read_bytes()).hexdigest()


def test_same_weights_give_the_same_file(tmp_path):
    model = nn.Linear(3, 2)
    assert save_weights(model, tmp_path / "a") == save_weights(model, tmp_path / "b")


def test_weights_of_another_model_are_an_error(tmp_path):
    save_weights(nn.Linear(3, 2), tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"expected weights for this Linear in .*m\.safetensors"):
        load_weights(nn.Linear(4, 2), tmp_path / "m.safetensors")


def test_file_that_is_not_safetensors_is_an_error(tmp_path):
    (tmp_path / "m.safetensors").write_bytes(b"\x80\x04nonsense that might be a pickle")
    with pytest.raises(ValueError, match=r"safetensors file at .*m\.safetensors, but it is damaged"):
        load_weights(nn.Linear(3, 2), tmp_path / "m.safetensors")


def test_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected weights at"):
        load_weights(nn.Linear(3, 2), tmp_path / "none")
