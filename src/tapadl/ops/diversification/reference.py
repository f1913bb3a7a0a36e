"""The attention diversification loss as it is defined: plain torch, maps stored, gradient by autograd."""

import torch
import torch.nn.functional as F

from tapadl.ops.diversification.visibility import Visibility, weights
from tapadl.ops.precision import without_autocast

COSINE_EPS = 1e-8


def diversification_from_map(
    attention: torch.Tensor, tau: float, visible: Visibility | None = None
) -> torch.Tensor:
    """Mean cosine between every row of the head-averaged map and the mean row, weak entries set to 0.

    Args:
        attention: (B, H, N, M), float32 or float64, rows = queries.
        tau: An entry counts where it exceeds tau times what uniform attention would give it.
        visible: What masks leave; None where every query sees every key.

    Returns:
        The loss, a scalar of the dtype of `attention`.
    """
    rows = attention.mean(dim=1)
    if visible is None:
        mean_row = rows.mean(dim=1, keepdim=True)
        # F.threshold(v) is v where v > threshold and 0 elsewhere, and lets NaN through: f of the paper.
        kept_rows = F.threshold(rows, tau / rows.shape[-1], 0.0)
        kept_mean_row = F.threshold(mean_row, tau / rows.shape[-1], 0.0)
        return F.cosine_similarity(kept_rows, kept_mean_row, dim=-1, eps=COSINE_EPS).mean()
    counts = visible.keys_seen > 0
    row_weight, sample_weight = weights(visible.keys_seen)
    row_weight = row_weight * counts
    mean_row = (row_weight.unsqueeze(-1) * rows).sum(dim=1, keepdim=True)
    # Times the keys it sees, an entry of a row is compared with tau itself; the cosine feels no factor.
    kept_rows = F.threshold(rows * visible.keys_seen.unsqueeze(-1), tau, 0.0)
    kept_mean_row = mean_row.masked_fill(mean_row <= tau * visible.uniform_mean.unsqueeze(1), 0.0)
    cosine = F.cosine_similarity(kept_rows, kept_mean_row, dim=-1, eps=COSINE_EPS)
    return (sample_weight * row_weight * cosine).sum()


def attention_map(
    query: torch.Tensor,
    key: torch.Tensor,
    attn_bias: torch.Tensor | None,
    scale: float,
    is_causal: bool,
) -> torch.Tensor:
    """softmax(scale * query key^T + attn_bias), (B, H, N, M); a row that may attend to nothing is 0."""
    scores = (query * scale) @ key.mT
    if attn_bias is None and not is_causal:
        return scores.softmax(dim=-1)
    if is_causal:
        causal = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~causal, -torch.inf)
    if attn_bias is not None and attn_bias.dtype == torch.bool:
        scores = scores.masked_fill(~attn_bias, -torch.inf)
    elif attn_bias is not None:
        scores = scores + attn_bias
    masked_row = (scores == -torch.inf).all(dim=-1, keepdim=True)
    return scores.masked_fill(masked_row, 0.0).softmax(dim=-1).masked_fill(masked_row, 0.0)


def diversification(
    query: torch.Tensor,
    key: torch.Tensor,
    attn_bias: torch.Tensor | None,
    visible: Visibility | None,
    tau: float,
    scale: float,
    is_causal: bool,
) -> torch.Tensor:
    """The loss from (B, H, N, D) queries and (B, H, M, D) keys, in at least float32, differentiable twice."""
    dtype = torch.promote_types(torch.promote_types(query.dtype, key.dtype), torch.float32)
    if attn_bias is not None and attn_bias.dtype != torch.bool:
        attn_bias = attn_bias.to(dtype)
    with without_autocast(query.device):
        attention = attention_map(query.to(dtype), key.to(dtype), attn_bias, scale, is_causal)
        return diversification_from_map(attention, tau, visible)
