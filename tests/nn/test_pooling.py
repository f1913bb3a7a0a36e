import copy
import gzip
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tapadl.nn import TokenAwareAveragePooling
from tapadl.tokens import PatchGrid

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
    # Asked of a copy: in training mode a second pass would move the batch norm's buffers again.
    weights = copy.deepcopy(module).branch_weights(tokens, GRID)
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


@pytest.mark.parametrize("num_branches", [1, 4])
def test_parameters_carry_the_published_names_and_number(num_branches):
    module = TokenAwareAveragePooling(24, num_branches)
    assert [name for name, _ in module.named_parameters()] == [
        "dilation_predictor.proj.0.weight",
        "dilation_predictor.proj.1.weight",
        "dilation_predictor.proj.1.bias",
        "dilation_predictor.proj.2.weight",
    ]
    expected = 9 * 24 * num_branches + 9 * num_branches**2 + 2 * num_branches
    assert sum(parameter.numel() for parameter in module.parameters()) == expected


def test_branch_weights_are_positive_and_sum_to_one():
    weights = TokenAwareAveragePooling(8).branch_weights(torch.randn(2, 1 + 15, 8), (3, 5), 1)
    assert weights.shape == (2, 4, 3, 5)
    assert (weights > 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(2, 3, 5))


def test_high_temperature_evens_the_branches_out_and_low_picks_one():
    tokens = torch.randn(2, 15, 8)
    flat = TokenAwareAveragePooling(8, temperature=1e6).branch_weights(tokens, (3, 5))
    sharp = TokenAwareAveragePooling(8, temperature=1e-6).branch_weights(tokens, (3, 5))
    torch.testing.assert_close(flat, torch.full_like(flat, 0.25), rtol=0, atol=1e-4)
    assert (sharp.max(1).values > 0.99).float().mean() > 0.9
    module = TokenAwareAveragePooling(8, temperature=2.5)
    scores = module.dilation_predictor(tokens, PatchGrid((3, 5), 0))
    torch.testing.assert_close(module.branch_weights(tokens, (3, 5)), (scores / 2.5).softmax(1))


def test_one_branch_leaves_the_tokens_bit_for_bit():
    tokens = torch.randn(2, 1 + 15, 8)
    assert torch.equal(TokenAwareAveragePooling(8, num_branches=1)(tokens, (3, 5), 1), tokens)


def test_prefix_tokens_do_not_take_part():
    module = TokenAwareAveragePooling(8).eval()
    tokens = torch.randn(2, 3 + 15, 8)
    pooled = module(tokens, (3, 5), 3)
    assert torch.equal(pooled[:, :3], tokens[:, :3])
    torch.testing.assert_close(pooled[:, 3:], module(tokens[:, 3:], (3, 5)))


@pytest.mark.parametrize("grid_size", [(1, 1), (1, 4), (2, 2)])
def test_maps_smaller_than_the_dilation_are_pooled(grid_size):
    tokens = torch.randn(2, grid_size[0] * grid_size[1], 8)
    module = TokenAwareAveragePooling(8, num_branches=5)
    assert module(tokens, grid_size).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_identity_changes_no_bit_at_first(dtype):
    module = TokenAwareAveragePooling(8, init="identity").to(dtype)
    tokens = torch.randn(2, 1 + 15, 8, dtype=dtype)
    assert torch.equal(module(tokens, (3, 5), 1), tokens)


def test_identity_learns_to_pool():
    torch.manual_seed(3)
    target = TokenAwareAveragePooling(8)
    module = TokenAwareAveragePooling(8, init="identity")
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    tokens = torch.randn(16, 49, 8)
    with torch.no_grad():
        wanted = target(tokens, (7, 7))
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = (module(tokens, (7, 7)) - wanted).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert module.gate.abs().min() > 0.1
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(("saved", "built"), [("identity", "paper"), ("paper", "identity")])
def test_loading_the_other_kind_is_an_error_that_names_both(saved, built, strict):
    state = torch.nn.Sequential(TokenAwareAveragePooling(8, init=saved)).state_dict()
    model = torch.nn.Sequential(TokenAwareAveragePooling(8, init=built))
    message = f'state of "0" was saved with init="{saved}" but the module was built with init="{built}"'
    with pytest.raises(RuntimeError, match=message):
        model.load_state_dict(state, strict=strict)


@pytest.mark.parametrize("init", ["paper", "identity"])
def test_a_checkpoint_without_tap_loads_when_not_strict(init):
    module = TokenAwareAveragePooling(8, init=init)
    missing = module.load_state_dict({}, strict=False).missing_keys
    assert set(missing) >= {name for name, _ in module.named_parameters()}
    assert module.load_state_dict(copy.deepcopy(module).state_dict()).missing_keys == []


@pytest.mark.parametrize("init", ["paper", "identity"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_module_stays_close_to_double(init, dtype):
    module = TokenAwareAveragePooling(32, init=init).eval()
    if init == "identity":
        torch.nn.init.constant_(module.gate, 0.5)
    tokens = torch.randn(2, 1 + 99, 32).to(dtype)
    exact = copy.deepcopy(module).double()(tokens.double(), GRID, 1)
    pooled = module.to(dtype)(tokens, GRID, 1)
    pooled.sum().backward()
    assert pooled.dtype == dtype
    assert all(parameter.grad.dtype == dtype for parameter in module.parameters())
    assert (pooled.double() - exact).abs().max() < 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize("init", ["paper", "identity"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_autocast_keeps_the_dtype_of_the_input(init, dtype):
    module = TokenAwareAveragePooling(16, init=init)
    if dtype == torch.float64:
        module.double()
    tokens = torch.randn(2, 1 + 15, 16, dtype=dtype, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        pooled = module(tokens, (3, 5), 1)
        assert module.branch_weights(tokens, (3, 5), 1).dtype in (torch.float32, torch.float64)
    pooled.sum().backward()
    assert pooled.dtype == tokens.grad.dtype == dtype


@pytest.mark.parametrize("init", ["paper", "identity"])
@pytest.mark.parametrize("training", [True, False])
def test_compiles_into_one_graph(init, training):
    module = TokenAwareAveragePooling(8, init=init).train(training)
    if init == "identity":
        torch.nn.init.constant_(module.gate, 0.5)
    tokens = torch.randn(2, 1 + 15, 8)
    expected = copy.deepcopy(module)(tokens, (3, 5), 1)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    actual = compiled(tokens, (3, 5), 1)
    actual.sum().backward()
    torch.testing.assert_close(actual, expected)


def test_exports_for_any_batch():
    module = TokenAwareAveragePooling(8, init="identity").eval()
    torch.nn.init.constant_(module.gate, 0.5)
    dynamic = {"tokens": {0: torch.export.Dim("batch")}, "grid_size": (None, None), "num_prefix_tokens": None}
    program = torch.export.export(module, (torch.randn(2, 1 + 15, 8), (3, 5), 1), dynamic_shapes=dynamic)
    tokens = torch.randn(5, 1 + 15, 8)
    torch.testing.assert_close(program.module()(tokens, (3, 5), 1), module(tokens, (3, 5), 1))
    assert {str(node.target).split(".")[0] for node in program.graph.nodes if node.op == "call_function"} <= {
        "aten"
    }


def test_implementations_agree_and_a_copy_keeps_the_chosen_one():
    module = TokenAwareAveragePooling(8).eval()
    tokens = torch.randn(2, 15, 8)
    expected = module(tokens, (3, 5))
    module.impl = "reference"
    copied = copy.deepcopy(module)
    assert copied.impl == "reference"
    torch.testing.assert_close(copied(tokens, (3, 5)), expected)


def test_what_is_not_a_number_does_not_come_out_as_one():
    module = TokenAwareAveragePooling(8).eval()
    tokens = torch.randn(2, 99, 8)
    tokens[0, 50, 3] = float("nan")
    pooled = module(tokens, GRID)
    assert pooled[0, 50].isnan().any()
    assert pooled[1].isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 0}, "dim of at least 1, got 0"),
        ({"num_branches": 0}, "num_branches to be an integer of at least 1, got 0"),
        ({"temperature": 0.0}, "temperature above 0, got 0.0"),
        ({"temperature": -1.0}, "temperature above 0, got -1.0"),
        ({"temperature": float("nan")}, "temperature above 0, got nan"),
        ({"ndim": 3}, r"ndim to be 2 \(images\) or 1 \(sequences\), got 3"),
        ({"causal": True}, r"expected ndim=1 \(a sequence\) with causal=True, got ndim=2"),
        ({"init": "zero"}, "init to be one of paper, identity, got 'zero'"),
    ],
)
def test_bad_settings_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        TokenAwareAveragePooling(**({"dim": 8} | arguments))


@pytest.mark.parametrize(
    ("tokens", "grid_size", "message"),
    [
        (torch.zeros(2, 15, 9), (3, 5), r"tokens of shape \(B, N, 8\), got \(2, 15, 9\)"),
        (torch.zeros(2, 15, 8), (3, 4), r"expected 12 tokens for a grid of 3 x 4 patches"),
        (torch.zeros(15, 8), (3, 5), r"\(B, N, C\), got \(15, 8\)"),
        (torch.zeros(2, 15, 8, dtype=torch.int64), (3, 5), r"tokens of a floating dtype, got torch.int64"),
        (torch.zeros(2, 15, 8), (15,), r"grid_size=\(rows, cols\), .* built with ndim=2, got \(15,\)"),
        (torch.zeros(2, 15, 8), 15, r"expected grid_size=\(rows, cols\) or \(length,\), got 15"),
    ],
)
def test_bad_tokens_are_named(tokens, grid_size, message):
    with pytest.raises(ValueError, match=message):
        TokenAwareAveragePooling(8)(tokens, grid_size)


def test_print_shows_the_settings():
    expected = "TokenAwareAveragePooling(\n  8, num_branches=4, temperature=1.0, init='identity'"
    assert repr(TokenAwareAveragePooling(8, init="identity")).startswith(expected)


def test_what_draws_the_weights_of_convolutions_draws_those_of_the_predictor():
    """As transformers does for weights that a checkpoint lacks, which lie in memory as they happen to."""
    with torch.device("meta"):
        module = TokenAwareAveragePooling(8, init="identity")
    module.to_empty(device="cpu")
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.constant_(part.weight, 3.0)
        elif hasattr(part, "reset_parameters"):
            part.reset_parameters()
    assert all(parameter.isfinite().all() for parameter in module.parameters())
    assert (module.dilation_predictor.proj[0].weight == 3).all()
    assert not module.gate.any()
