"""Pooling of one-dimensional grids, causal or not, and of padded tokens."""

import pytest
import torch

from tapadl.ops.pooling import token_aware_pooling

IMPLS = ["reference", "separable"]
CASES = [
    # length, prefix tokens, branches
    pytest.param(1, 0, 4, id="one-token"),
    pytest.param(2, 1, 5, id="dilations-beyond-the-end"),
    pytest.param(11, 2, 4, id="odd"),
    pytest.param(16, 0, 1, id="one-branch"),
]


def _inputs(length, num_prefix_tokens=0, num_branches=4, batch=2, dim=3):
    tokens = torch.randn(batch, num_prefix_tokens + length, dim, dtype=torch.float64)
    return tokens, torch.randn(batch, num_branches, length, dtype=torch.float64)


def _in_a_loop(tokens, branch_weights, num_prefix_tokens, causal):
    pooled = tokens.clone()
    length = tokens.shape[1] - num_prefix_tokens
    for i in range(length):
        pooled[:, num_prefix_tokens + i] = 0
        for d in range(branch_weights.shape[1]):
            places = [i - 2 * d, i - d, i] if causal else [i - d, i, i + d]
            inside = [tokens[:, num_prefix_tokens + j] for j in places if 0 <= j < length]
            pooled[:, num_prefix_tokens + i] += branch_weights[:, d, i, None] * sum(inside) / 3
    return pooled


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("length", "num_prefix_tokens", "num_branches"), CASES)
def test_a_sequence_is_pooled_as_a_plain_loop_does(impl, causal, length, num_prefix_tokens, num_branches):
    tokens, branch_weights = _inputs(length, num_prefix_tokens, num_branches)
    pooled = token_aware_pooling(
        tokens,
        branch_weights,
        grid_size=(length,),
        num_prefix_tokens=num_prefix_tokens,
        causal=causal,
        impl=impl,
    )
    expected = _in_a_loop(tokens, branch_weights, num_prefix_tokens, causal)
    torch.testing.assert_close(pooled, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("length", "num_prefix_tokens", "num_branches"), CASES)
def test_fast_form_has_the_gradients_of_the_definition(
    causal, padded, length, num_prefix_tokens, num_branches
):
    tokens, branch_weights = _inputs(length, num_prefix_tokens, num_branches)
    padding_mask = torch.rand(tokens.shape[:2]) < 0.3 if padded else None
    grad, gradients = torch.randn_like(tokens), []
    for impl in IMPLS:
        inputs = tokens.clone().requires_grad_(), branch_weights.clone().requires_grad_()
        pooled = token_aware_pooling(
            *inputs,
            grid_size=(length,),
            num_prefix_tokens=num_prefix_tokens,
            causal=causal,
            padding_mask=padding_mask,
            impl=impl,
        )
        gradients.append(torch.autograd.grad(pooled, inputs, grad))
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("causal", [False, True])
def test_gradients_agree_with_differences(impl, causal):
    tokens, branch_weights = _inputs(5, num_prefix_tokens=1, num_branches=3, batch=1, dim=2)
    padding_mask = torch.tensor([[False, False, True, False, False, False]])

    def pool(tokens, branch_weights):
        return token_aware_pooling(
            tokens,
            branch_weights,
            grid_size=(5,),
            num_prefix_tokens=1,
            causal=causal,
            padding_mask=padding_mask,
            impl=impl,
        )

    inputs = tokens.requires_grad_(), branch_weights.requires_grad_()
    assert torch.autograd.gradcheck(pool, inputs)
    assert torch.autograd.gradgradcheck(pool, inputs)


def test_a_row_of_an_image_is_not_a_sequence():
    tokens, weights = torch.ones(1, 5, 2), torch.tensor([0.0, 1.0])[None, :, None]
    as_sequence = token_aware_pooling(tokens, weights.expand(1, 2, 5), grid_size=(5,))
    as_row = token_aware_pooling(tokens, weights[..., None].expand(1, 2, 1, 5), grid_size=(1, 5))
    torch.testing.assert_close(as_sequence[0, :, 0], torch.tensor([2.0, 3, 3, 3, 2]) / 3)
    torch.testing.assert_close(as_row, as_sequence / 3)


@pytest.mark.parametrize("impl", IMPLS)
def test_a_causal_token_takes_in_no_later_one(impl):
    tokens, branch_weights = _inputs(9, num_prefix_tokens=1)
    pooled = token_aware_pooling(
        tokens.requires_grad_(),
        branch_weights,
        grid_size=(9,),
        num_prefix_tokens=1,
        causal=True,
        impl=impl,
    )
    for i in range(10):
        (grad,) = torch.autograd.grad(pooled[:, i].sum(), tokens, retain_graph=True)
        assert grad[:, i].any()
        assert not grad[:, i + 1 :].any()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("value", [1e3, float("nan")])
def test_padding_is_the_outside_of_the_sequence_and_stays_as_it_is(impl, causal, value):
    tokens, branch_weights = _inputs(7, num_prefix_tokens=1)
    padded = torch.cat((tokens, torch.full((2, 4, 3), value, dtype=torch.float64)), dim=1)
    padding_mask = torch.arange(12).expand(2, -1) >= 8
    more_weights = torch.cat((branch_weights, torch.randn(2, 4, 4, dtype=torch.float64)), dim=2)
    call = {"num_prefix_tokens": 1, "causal": causal, "impl": impl}
    expected = token_aware_pooling(tokens, branch_weights, grid_size=(7,), **call)
    pooled = token_aware_pooling(padded, more_weights, grid_size=(11,), padding_mask=padding_mask, **call)
    torch.testing.assert_close(pooled[:, :8], expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(pooled[:, 8:].isnan(), padded[:, 8:].isnan())
    assert torch.equal(pooled[:, 8:].nan_to_num(), padded[:, 8:].nan_to_num())


def test_padding_around_an_image_is_its_border():
    tokens = torch.randn(1, 12, 3, dtype=torch.float64)
    weights = torch.rand(1, 4, 3, 4, dtype=torch.float64)
    framed, framed_weights = torch.randn(1, 5, 6, 3).double(), torch.rand(1, 4, 5, 6).double()
    framed[:, 1:4, 1:5], framed_weights[:, :, 1:4, 1:5] = tokens.unflatten(1, (3, 4)), weights
    padding_mask = torch.ones(1, 5, 6, dtype=torch.bool)
    padding_mask[:, 1:4, 1:5] = False
    pooled = token_aware_pooling(
        framed.flatten(1, 2), framed_weights, grid_size=(5, 6), padding_mask=padding_mask.flatten(1)
    )
    expected = token_aware_pooling(tokens, weights, grid_size=(3, 4))
    torch.testing.assert_close(pooled.unflatten(1, (5, 6))[:, 1:4, 1:5].flatten(1, 2), expected)


@pytest.mark.parametrize("impl", ["auto", *IMPLS])
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch 2.11
def test_compiles_into_one_graph(impl):
    tokens, branch_weights = _inputs(6)
    padding_mask = torch.arange(6).expand(2, -1) >= torch.tensor([[4], [6]])
    call = {"grid_size": (6,), "causal": True, "padding_mask": padding_mask, "impl": impl}
    compiled = torch.compile(token_aware_pooling, fullgraph=True, backend="aot_eager")
    gradients = []
    for pool in (token_aware_pooling, compiled):
        inputs = tokens.clone().requires_grad_(), branch_weights.clone().requires_grad_()
        pooled = pool(*inputs, **call)
        gradients.append((pooled, *torch.autograd.grad(pooled.sin().sum(), inputs)))
    torch.testing.assert_close(*gradients)
