"""The TAP module on one-dimensional grids, causal or not, and on padded tokens."""

import copy

import pytest
import torch

from tapadl.nn import TokenAwareAveragePooling


def _module(causal=False, **options):
    module = TokenAwareAveragePooling(8, ndim=1, causal=causal, **options).double()
    norm = module.dilation_predictor.proj[1]
    with torch.no_grad():  # statistics as after some training
        for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            values.uniform_(0.5, 2)
    return module


@pytest.mark.parametrize("causal", [False, True])
def test_parameters_keep_their_names_and_lose_a_dimension(causal):
    parameters = dict(TokenAwareAveragePooling(24, ndim=1, causal=causal).named_parameters())
    assert {name: tuple(value.shape) for name, value in parameters.items()} == {
        "dilation_predictor.proj.0.weight": (4, 24, 3),
        "dilation_predictor.proj.1.weight": (4,),
        "dilation_predictor.proj.1.bias": (4,),
        "dilation_predictor.proj.2.weight": (4, 4, 3),
    }
    assert sum(value.numel() for value in parameters.values()) == 3 * 24 * 4 + 3 * 4 * 4 + 2 * 4


def test_predictor_of_a_sequence_is_made_of_torch_layers():
    module = _module().train()
    plain = torch.nn.Sequential(
        torch.nn.Conv1d(8, 4, 3, padding=1, bias=False),
        torch.nn.BatchNorm1d(4),
        torch.nn.Conv1d(4, 4, 3, padding=1, bias=False),
        torch.nn.Softmax(dim=1),
    ).double()
    plain[:3].load_state_dict(module.dilation_predictor.proj.state_dict())
    tokens = torch.randn(3, 10, 8, dtype=torch.float64)
    torch.testing.assert_close(module.branch_weights(tokens, (10,)), plain(tokens.transpose(1, 2)))


@pytest.mark.parametrize("init", ["paper", "identity"])
def test_a_causal_module_in_evaluation_sees_nothing_later(init):
    module = _module(causal=True, init=init).eval()
    if init == "identity":
        torch.nn.init.constant_(module.gate, 0.5)
    tokens = torch.randn(2, 1 + 9, 8, dtype=torch.float64, requires_grad=True)
    pooled = module(tokens, (9,), 1)
    for i in range(10):
        (grad,) = torch.autograd.grad(pooled[:, i].sum(), tokens, retain_graph=True)
        assert grad[:, i].any()
        assert not grad[:, i + 1 :].any()
    assert torch.autograd.grad(pooled[:, 9].sum(), tokens)[0][:, 5].any()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("garbage", [0.0, 50.0, float("nan")])
def test_a_padded_batch_gives_what_each_sequence_gives_alone(causal, garbage):
    module = _module(causal).eval()
    lengths = [9, 1, 5]
    tokens = torch.full((3, 1 + 9, 8), garbage, dtype=torch.float64)
    padding_mask = torch.ones(3, 10, dtype=torch.bool)
    for i, length in enumerate(lengths):
        tokens[i, : 1 + length] = torch.randn(1 + length, 8)
        padding_mask[i, : 1 + length] = False
    pooled = module(tokens, (9,), 1, padding_mask)
    for i, length in enumerate(lengths):
        alone = module(tokens[i : i + 1, : 1 + length], (length,), 1)
        torch.testing.assert_close(pooled[i : i + 1, : 1 + length], alone, rtol=1e-12, atol=1e-12)
    assert torch.equal(pooled[padding_mask].isnan(), tokens[padding_mask].isnan())
    assert torch.equal(pooled[padding_mask].nan_to_num(), tokens[padding_mask].nan_to_num())


@pytest.mark.parametrize("causal", [False, True])
def test_padding_changes_no_training_step_either(causal):
    module = _module(causal).train()
    padded_module = copy.deepcopy(module)
    tokens = torch.randn(3, 6, 8, dtype=torch.float64, requires_grad=True)
    padded = torch.cat((tokens.detach(), torch.randn(3, 4, 8, dtype=torch.float64)), 1).requires_grad_()
    padding_mask = torch.arange(10).expand(3, -1) >= 6
    grad = torch.randn(3, 10, 8, dtype=torch.float64)
    module(tokens, (6,)).backward(grad[:, :6])
    padded_module(padded, (10,), padding_mask=padding_mask).backward(grad)
    torch.testing.assert_close(padded.grad[:, :6], tokens.grad)
    assert torch.equal(padded.grad[:, 6:], grad[:, 6:])
    for (name, value), (_, other) in zip(
        module.named_parameters(), padded_module.named_parameters(), strict=True
    ):
        torch.testing.assert_close(other.grad, value.grad, msg=name)
    torch.testing.assert_close(dict(padded_module.named_buffers()), dict(module.named_buffers()))


def test_a_mask_without_padding_changes_nothing():
    for ndim, grid_size in ((1, (12,)), (2, (3, 4))):
        module = TokenAwareAveragePooling(8, ndim=ndim)
        tokens = torch.randn(2, 12, 8)
        expected = copy.deepcopy(module)(tokens, grid_size)
        nothing = torch.zeros(2, 12, dtype=torch.bool)
        torch.testing.assert_close(module(tokens, grid_size, padding_mask=nothing), expected)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_compiles_into_one_graph(causal, padded):
    module = _module(causal).eval()
    tokens = torch.randn(2, 10, 8, dtype=torch.float64)
    padding_mask = torch.arange(10).expand(2, -1) >= torch.tensor([[7], [10]]) if padded else None
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        compiled(tokens, (10,), 0, padding_mask), module(tokens, (10,), 0, padding_mask)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_under_a_mask_keeps_its_dtype(dtype):
    module = _module().to(dtype)
    tokens = torch.randn(2, 10, 8).to(dtype)
    padding_mask = torch.arange(10).expand(2, -1) >= 7
    assert module(tokens, (10,), 0, padding_mask).dtype == dtype
    with torch.autocast("cpu", torch.bfloat16):
        assert _module().float()(tokens.float(), (10,), 0, padding_mask).dtype == torch.float32


def test_a_grid_of_the_other_kind_is_named():
    with pytest.raises(ValueError, match=r"grid_size=\(length,\), .* built with ndim=1, got \(1, 10\)"):
        TokenAwareAveragePooling(8, ndim=1)(torch.zeros(1, 10, 8), (1, 10))


def test_print_shows_that_it_is_a_sequence():
    assert "init='paper', ndim=1, causal=True" in repr(TokenAwareAveragePooling(8, ndim=1, causal=True))
