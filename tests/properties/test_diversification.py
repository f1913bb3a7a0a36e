import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tapadl.ops.diversification import attention_diversification, attention_diversification_from_map, tiles

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

IMPLS = st.sampled_from(["reference", "single_pass", "chunked"])
TAUS = st.sampled_from([0.0, 0.93, 1.31, 2.17])


@st.composite
def queries_and_keys(draw):
    B, H, N, M, D = (draw(st.integers(1, high)) for high in (3, 4, 40, 40, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    spread = draw(st.sampled_from([0.1, 1.0, 5.0]))
    query = torch.randn(B, H, N, D, generator=generator, dtype=torch.float64) * spread
    # A direction the queries share makes them focus on the same keys.
    query += draw(st.sampled_from([0.0, 2.0])) * torch.randn(
        B, H, 1, D, generator=generator, dtype=torch.float64
    )
    return query, torch.randn(B, H, M, D, generator=generator, dtype=torch.float64)


def assert_close(left, right):
    torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-12)


@settings(deadline=None, max_examples=40)
@given(queries_and_keys(), TAUS, st.booleans(), st.sampled_from([8, 4096, 1 << 20]))
def test_chunked_equals_reference(inputs, tau, is_causal, tile_bytes):
    losses, gradients = {}, {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "CPU_TILE_BYTES", tile_bytes)
        for impl in ("reference", "single_pass", "chunked"):
            leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
            losses[impl] = attention_diversification(*leaves, tau=tau, is_causal=is_causal, impl=impl)
            gradients[impl] = torch.autograd.grad(losses[impl], leaves)
    assert_close(losses["chunked"], losses["reference"])
    for chunked, reference in zip(gradients["chunked"], gradients["reference"], strict=True):
        torch.testing.assert_close(chunked, reference, rtol=1e-8, atol=1e-11)


@settings(deadline=None, max_examples=25)
@given(queries_and_keys(), TAUS, IMPLS)
def test_loss_lies_between_zero_and_one(inputs, tau, impl):
    loss = attention_diversification(*inputs, tau=tau, impl=impl)
    assert -1e-12 <= loss.item() <= 1 + 1e-12


@settings(deadline=None, max_examples=25)
@given(queries_and_keys(), TAUS, IMPLS)
def test_duplicating_the_batch_changes_nothing(inputs, tau, impl):
    doubled = (torch.cat((tensor, tensor)) for tensor in inputs)
    assert_close(
        attention_diversification(*doubled, tau=tau, impl=impl),
        attention_diversification(*inputs, tau=tau, impl=impl),
    )


@settings(deadline=None, max_examples=25)
@given(queries_and_keys(), TAUS, IMPLS)
def test_loss_of_a_batch_is_the_mean_over_its_samples(inputs, tau, impl):
    single = [
        attention_diversification(query[None], key[None], tau=tau, impl=impl)
        for query, key in zip(*inputs, strict=True)
    ]
    assert_close(attention_diversification(*inputs, tau=tau, impl=impl), torch.stack(single).mean())


@settings(deadline=None, max_examples=25)
@given(queries_and_keys(), TAUS, IMPLS, st.randoms(use_true_random=False))
def test_permuting_tokens_or_heads_jointly_changes_nothing(inputs, tau, impl, random):
    query, key = inputs
    expected = attention_diversification(query, key, tau=tau, impl=impl)
    heads, rows, columns = (
        random.sample(range(n), n) for n in (query.shape[1], query.shape[2], key.shape[2])
    )
    permuted = query[:, heads][:, :, rows], key[:, heads][:, :, columns]
    assert_close(attention_diversification(*permuted, tau=tau, impl=impl), expected)


@settings(deadline=None, max_examples=25)
@given(queries_and_keys(), TAUS, IMPLS)
def test_shifting_every_key_changes_nothing(inputs, tau, impl):
    query, key = inputs
    shifted = attention_diversification(query, key + 1.0, tau=tau, impl=impl)
    torch.testing.assert_close(
        shifted, attention_diversification(query, key, tau=tau, impl=impl), rtol=1e-9, atol=1e-9
    )


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 50), st.integers(3, 50), IMPLS)
def test_collapsed_attention_scores_one_and_uniform_attention_zero(B, H, N, M, impl):
    query, key = torch.ones(B, H, N, 2), torch.zeros(B, H, M, 2)
    assert attention_diversification(query, key, impl=impl) == 0
    key[:, :, M // 2] = 100.0
    assert attention_diversification(query, key, impl=impl).item() == pytest.approx(1, abs=1e-5)


@settings(deadline=None, max_examples=20)
@given(queries_and_keys(), TAUS)
def test_map_and_query_with_key_agree(inputs, tau):
    query, key = inputs
    attention = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)
    assert_close(
        attention_diversification_from_map(attention, tau=tau), attention_diversification(*inputs, tau=tau)
    )
