"""What masks mean to the loss: a row is measured by the keys it may see, and padding changes nothing."""

import pytest
import torch

from tapadl.ops.diversification import attention_diversification, attention_diversification_from_map
from tapadl.ops.diversification.visibility import visibility

IMPLS = ["reference", "single_pass", "chunked"]


def loop(query, key, seen, counts, tau):
    """The definition, row by row: `seen` (B, N, M) where a query may look, `counts` (B, N)."""
    losses = []
    for b in range(len(query)):
        scores = query[b] @ key[b].mT / query.shape[-1] ** 0.5
        rows = scores.masked_fill(~seen[b], -torch.inf).softmax(-1).mean(0)
        indices = [i for i in range(query.shape[2]) if counts[b, i]]
        mean_row = torch.stack([rows[i] for i in indices]).mean(0)
        uniform = torch.stack([seen[b, i] / seen[b, i].sum() for i in indices]).mean(0)
        kept_mean = torch.where(mean_row > tau * uniform, mean_row, 0.0)
        cosines = []
        for i in indices:
            kept = torch.where(rows[i] > tau / seen[b, i].sum(), rows[i], 0.0)
            norm = kept.norm() * kept_mean.norm()
            cosines.append(kept @ kept_mean / norm if norm > 0 else norm)
        losses.append(torch.stack(cosines).mean())
    return torch.stack(losses).mean()


def inputs(B=2, H=3, N=9, M=9, D=4):
    return (torch.randn(B, H, n, D, dtype=torch.float64) * 2 for n in (N, M))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("N", "M"), [(9, 9), (5, 9), (9, 5)])
def test_causal_attention_is_measured_by_the_keys_each_row_may_see(impl, N, M):
    query, key = inputs(N=N, M=M)
    seen = torch.ones(N, M, dtype=torch.bool).tril().expand(2, N, M)
    loss = attention_diversification(query, key, tau=1.1, is_causal=True, impl=impl)
    assert loss > 0
    torch.testing.assert_close(loss, loop(query, key, seen, seen.any(-1), 1.1))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("as_float", [False, True])
def test_a_mask_of_each_query_is_measured_by_the_keys_it_leaves(impl, as_float):
    query, key = inputs(N=7)
    seen = torch.rand(2, 7, 9) > 0.4
    seen[..., 0] = True
    mask = seen[:, None]
    if as_float:
        mask = torch.zeros(2, 1, 7, 9).masked_fill(~mask, torch.finfo(torch.float32).min)
    loss = attention_diversification(query, key, tau=1.1, attn_bias=mask, impl=impl)
    torch.testing.assert_close(loss, loop(query, key, seen, seen.any(-1), 1.1))


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("impl", IMPLS)
def test_padding_changes_neither_loss_nor_gradient(impl, is_causal):
    lengths = [9, 5, 7]
    query, key = inputs(B=3)
    mask = (torch.arange(9) < torch.tensor(lengths)[:, None])[:, None, None]
    leaves = [query.requires_grad_(), key.requires_grad_()]
    padded = attention_diversification(query, key, tau=1.1, attn_bias=mask, is_causal=is_causal, impl=impl)
    alone = torch.stack(
        [
            attention_diversification(
                query[b : b + 1, :, :n], key[b : b + 1, :, :n], tau=1.1, is_causal=is_causal, impl=impl
            )
            for b, n in enumerate(lengths)
        ]
    ).mean()
    torch.testing.assert_close(padded, alone)
    for left, right in zip(
        torch.autograd.grad(padded, leaves), torch.autograd.grad(alone, leaves), strict=True
    ):
        assert right.any()
        torch.testing.assert_close(left, right)


def test_padding_on_the_left_changes_nothing_either():
    query, key = inputs(B=1)
    mask = (torch.arange(9) >= 3)[None, None, None]
    padded = attention_diversification(query, key, tau=1.1, attn_bias=mask)
    torch.testing.assert_close(padded, attention_diversification(query[:, :, 3:], key[:, :, 3:], tau=1.1))


@pytest.mark.parametrize("impl", IMPLS)
def test_a_mask_that_hides_nothing_changes_nothing(impl):
    query, key = inputs()
    mask = torch.ones(2, 1, 1, 9, dtype=torch.bool)
    torch.testing.assert_close(
        attention_diversification(query, key, attn_bias=mask, impl=impl),
        attention_diversification(query, key, impl=impl),
    )


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("options", ["plain", "causal", "padding", "bias"])
def test_a_fraction_of_the_queries_is_the_loss_of_the_drawn_ones(impl, options):
    query, key = inputs(N=12, M=12)
    bias = torch.randn(3, 12, 12, dtype=torch.float64)
    mask = (torch.arange(12) < torch.tensor([[12], [8]]))[:, None, None]
    arguments = {
        "plain": {},
        "causal": {"is_causal": True},
        "padding": {"attn_bias": mask},
        "bias": {"attn_bias": bias},
    }[options]
    torch.manual_seed(3)
    loss = attention_diversification(query, key, tau=1.1, query_fraction=0.5, impl=impl, **arguments)
    torch.manual_seed(3)
    drawn = torch.randperm(12)[:6].sort().values
    seen = torch.ones(2, 12, 12, dtype=torch.bool)
    seen = seen.tril() if options == "causal" else seen
    seen = seen & mask[:, 0] if options == "padding" else seen
    counts = mask[:, 0, 0] if options == "padding" else torch.ones(2, 12, dtype=torch.bool)
    if options == "bias":
        scores = query[:, :, drawn] @ key.mT / 2 + bias[:, drawn]
        want = attention_diversification_from_map(scores.softmax(-1), tau=1.1)
    else:
        want = loop(query[:, :, drawn], key, seen[:, drawn], counts.expand(2, 12)[:, drawn], 1.1)
    torch.testing.assert_close(loss, want)


@pytest.mark.parametrize("fraction", [0, -0.1, 1.1, float("nan"), "half"])
def test_a_fraction_outside_its_range_is_refused(fraction):
    query, key = inputs()
    with pytest.raises(ValueError, match="query_fraction above 0 and at most 1, got"):
        attention_diversification(query, key, query_fraction=fraction)


def test_the_smallest_fraction_draws_one_query():
    query, key = inputs()
    assert attention_diversification(query, key, query_fraction=1e-9).isfinite()


def test_the_mask_of_a_stored_map_means_the_same():
    query, key = inputs()
    mask = (torch.arange(9) < torch.tensor([[9], [6]]))[:, None, None]
    scores = (query @ key.mT / 2).masked_fill(~mask, -torch.inf)
    torch.testing.assert_close(
        attention_diversification_from_map(scores.softmax(-1), tau=1.1, mask=mask),
        attention_diversification(query, key, tau=1.1, attn_bias=mask),
    )


@pytest.mark.parametrize("mask", [torch.ones(9, 9), "all", torch.ones(3, 2, 9, 9, dtype=torch.bool)])
def test_a_mask_that_does_not_fit_is_refused(mask):
    with pytest.raises(ValueError, match=r"expected mask to be a boolean tensor|broadcastable to"):
        attention_diversification_from_map(torch.ones(2, 3, 9, 9), mask=mask)


def test_autocast_does_not_round_what_uniform_attention_would_be():
    seen = torch.rand(2, 1, 64, 64) > 0.5
    plain = visibility((2, 64, 64), seen, False, None, torch.empty(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = visibility((2, 64, 64), seen, False, None, torch.empty(0))
    assert torch.equal(inside.uniform_mean, plain.uniform_mean)


@pytest.mark.parametrize("impl", ["single_pass", "chunked"])
@pytest.mark.parametrize("as_float", [False, True])
def test_a_head_that_sees_nothing_in_a_row_adds_nothing_to_it(impl, as_float):
    query, key = (3 * torch.randn(2, 2, 40, 8).double() for _ in range(2))
    mask = torch.ones(2, 2, 40, 40, dtype=torch.bool)
    mask[:, 0, :20] = False
    if as_float:
        mask = torch.zeros(2, 2, 40, 40).double().masked_fill(~mask, -torch.inf)
    found = []
    for one in ("reference", impl):
        leaves = [tensor.clone().requires_grad_() for tensor in (query, key)]
        loss = attention_diversification(*leaves, tau=1.5, attn_bias=mask, impl=one)
        found.append((loss, *torch.autograd.grad(loss, leaves)))
    for expected, own in zip(*found, strict=True):
        torch.testing.assert_close(own, expected)
