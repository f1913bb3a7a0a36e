import gzip
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tapadl.nn import TokenAwareAveragePooling

GOLDEN = Path(__file__).parents[1] / "golden"
GRID = (9, 11)


@pytest.fixture(scope="module")
def golden():
    with gzip.open(GOLDEN / "tap_alone.json.gz", "rt") as file:
        cases = json.load(file)["cases"]
    return cases, np.load(GOLDEN / "tap_alone.npz")


def _fill_rule():
    spec = importlib.util.spec_from_file_location("fill_rule", GOLDEN / "fill_rule.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _golden_module(num_branches, dtype):
    module = TokenAwareAveragePooling(32, num_branches)
    fill = _fill_rule().fill
    state = {
        key: value
        if not value.is_floating_point()
        else torch.from_numpy(fill(f"tap_k{num_branches}.{key}", value.shape))
        for key, value in module.state_dict().items()
    }
    module.load_state_dict(state)
    return module.to(dtype)


def _golden_tokens(seed, dtype):
    values = np.random.default_rng(seed).standard_normal((2, 32, *GRID)).astype(np.float32)
    return torch.from_numpy(values).to(dtype).flatten(2).transpose(1, 2)


@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"),
    [("f64", torch.float64, 1e-9), ("f32", torch.float32, 1e-4)],
    ids=["f64", "f32"],
)
@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("num_branches", [1, 2, 3, 4, 5])
def test_module_reproduces_the_golden_run(golden, num_branches, mode, name, dtype, tolerance):
    cases, arrays = golden
    module = _golden_module(num_branches, dtype).train(mode == "train")
    assert [[key, list(value.shape)] for key, value in module.state_dict().items()] == cases[
        f"k{num_branches}"
    ]["state_dict"]
    tokens = _golden_tokens(100, dtype).requires_grad_()
    weights = None

    def keep(value):
        nonlocal weights
        weights = value

    original = module.branch_weights
    module.branch_weights = lambda *a: (keep(original(*a)), weights)[1]
    out = module(tokens, GRID)
    loss = (out * _golden_tokens(101, dtype)).sum()
    loss.backward()

    def check(key, actual):
        expected = torch.from_numpy(arrays[f"k{num_branches}_{mode}_{name}_{key}"])
        torch.testing.assert_close(actual.detach(), expected, rtol=tolerance, atol=tolerance)

    check("out", out.transpose(1, 2).unflatten(2, GRID))
    check("mask", weights.permute(0, 2, 3, 1))
    check("loss", loss)
    check("grad_input", tokens.grad.transpose(1, 2).unflatten(2, GRID))
    for key, parameter in module.named_parameters():
        check(f"grad.{key}", parameter.grad)
    if mode == "train":
        for key in ("dilation_predictor.proj.1.running_mean", "dilation_predictor.proj.1.running_var"):
            check(f"after.{key}", module.state_dict()[key])
