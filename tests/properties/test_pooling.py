import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tapadl.nn import TokenAwareAveragePooling
from tapadl.ops.pooling import token_aware_pooling

CASES = {
    "batch": st.integers(1, 3),
    "rows": st.integers(1, 7),
    "cols": st.integers(1, 7),
    "dim": st.integers(1, 9),
    "num_branches": st.integers(1, 5),
    "num_prefix_tokens": st.integers(0, 2),
    "seed": st.integers(0, 2**16),
}


def _inputs(batch, rows, cols, dim, num_branches, num_prefix_tokens, seed):
    generator = torch.Generator().manual_seed(seed)
    size = (batch, num_prefix_tokens + rows * cols, dim)
    tokens = torch.randn(size, dtype=torch.float64, generator=generator)
    weights = torch.randn((batch, num_branches, rows, cols), dtype=torch.float64, generator=generator)
    return tokens, weights, {"grid_size": (rows, cols), "num_prefix_tokens": num_prefix_tokens}


@settings(deadline=None, max_examples=60)
@given(**CASES)
def test_fast_form_equals_the_definition_with_its_gradients(**case):
    tokens, weights, call = _inputs(**case)
    results = []
    for impl in ("reference", "separable"):
        inputs = (tokens.clone().requires_grad_(), weights.clone().requires_grad_())
        pooled = token_aware_pooling(*inputs, **call, impl=impl)
        results.append((pooled.detach(), *torch.autograd.grad((pooled * tokens.sin()).sum(), inputs)))
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(**CASES)
def test_pooling_is_linear_in_tokens_and_in_weights(**case):
    tokens, weights, call = _inputs(**case)
    other, other_weights = tokens.sin(), weights.cos()
    patches = slice(case["num_prefix_tokens"], None)
    sum_of_tokens = token_aware_pooling(tokens + 2 * other, weights, **call)
    expected = token_aware_pooling(tokens, weights, **call) + 2 * token_aware_pooling(other, weights, **call)
    torch.testing.assert_close(sum_of_tokens, expected, rtol=1e-12, atol=1e-12)
    sum_of_weights = token_aware_pooling(tokens, weights + other_weights, **call)[:, patches]
    expected = (
        token_aware_pooling(tokens, weights, **call) + token_aware_pooling(tokens, other_weights, **call)
    )[:, patches]
    torch.testing.assert_close(sum_of_weights, expected, rtol=1e-12, atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(**CASES)
def test_mirrored_and_transposed_maps_give_mirrored_and_transposed_output(**case):
    tokens, weights, call = _inputs(**(case | {"num_prefix_tokens": 0}))
    grid_size = call["grid_size"]
    pooled = token_aware_pooling(tokens, weights, grid_size=grid_size).unflatten(1, grid_size)
    token_map = tokens.unflatten(1, grid_size)
    mirrored = token_aware_pooling(token_map.flip(2).flatten(1, 2), weights.flip(3), grid_size=grid_size)
    torch.testing.assert_close(mirrored.unflatten(1, grid_size), pooled.flip(2), rtol=1e-12, atol=1e-12)
    transposed = token_aware_pooling(
        token_map.transpose(1, 2).flatten(1, 2), weights.transpose(2, 3), grid_size=grid_size[::-1]
    )
    expected = pooled.transpose(1, 2)
    torch.testing.assert_close(transposed.unflatten(1, grid_size[::-1]), expected, rtol=1e-12, atol=1e-12)


@settings(deadline=None, max_examples=20)
@given(**CASES)
def test_evaluation_does_not_depend_on_the_rest_of_the_batch(**case):
    tokens, _, call = _inputs(**case)
    torch.manual_seed(case["seed"])
    module = TokenAwareAveragePooling(case["dim"], case["num_branches"]).double().eval()
    pooled = module(tokens, **call)
    alone = torch.cat([module(image[None], **call) for image in tokens])
    doubled = module(torch.cat((tokens, tokens)), **call)
    torch.testing.assert_close(alone, pooled, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(doubled, torch.cat((pooled, pooled)), rtol=1e-12, atol=1e-12)
