"""How much a layer leans on few tokens, in numbers."""

import math
from dataclasses import dataclass

import torch

from tapadl.ops.diversification import attention_diversification_from_map


@dataclass(frozen=True)
class AttentionFocus:
    """Over-focus of one layer, each number averaged over images.

    None of them says whether the layer is right: a layer may lean on few tokens for good reason.

    Args:
        top_share: Share of all attention that goes to the keys that receive most, in (0, 1].
        effective_keys: Number of keys that would, receiving equally, be as spread out; 1 to M.
        gini: Inequality of what keys receive; 0 equal, (M - 1) / M all to one key.
        overlap: The ADL value: how alike the strong entries of the rows are; 0 to 1.
        cosine: The same over all entries.
    """

    top_share: float
    effective_keys: float
    gini: float
    overlap: float
    cosine: float


def received_attention(attention: torch.Tensor) -> torch.Tensor:
    """What each key receives on average, `r_j = mean over queries i of M_ij`.

    Args:
        attention: (B, N, M), floating point, averaged over heads, rows = queries with sum 1.

    Returns:
        (B, M) in at least float32, with sum 1; 1 / M everywhere where attention is uniform.

    Raises:
        ValueError: If the map is not a floating-point (B, N, M) tensor.

    Example:
        >>> received_attention(torch.tensor([[[1.0, 0.0], [0.5, 0.5]]]))
        tensor([[0.7500, 0.2500]])
    """
    check_attention("attention", attention)
    return attention.mean(dim=1, dtype=torch.promote_types(attention.dtype, torch.float32))


def attention_focus(
    attention: torch.Tensor, *, top_fraction: float = 0.05, tau: float = 2.0
) -> AttentionFocus:
    """Over-focus of one layer from its head-averaged attention.

    With r the received attention (mean row), sorted upwards in the Gini coefficient:

        top_share      = sum of the ceil(top_fraction M) largest r_j
        effective_keys = exp(-sum_j r_j log r_j)
        gini           = 2 sum_j j r_(j) / M - (M + 1) / M
        overlap        = mean over queries i of cos(f(M_i), f(r)),   f(v) = v where v > tau / M, else 0
        cosine         = mean over queries i of cos(M_i, r)

    Args:
        attention: (B, N, M), floating point, averaged over heads, rows = queries with sum 1.
        top_fraction: Part of the keys that counts as the top, in (0, 1]; at least one key.
        tau: Threshold multiple of `overlap`.

    Returns:
        The five numbers, averaged over the B images.

    Raises:
        ValueError: If the map is not a floating-point (B, N, M) tensor or an option is out of range.

    Source:
        Overlap: Guo, Stutz, Schiele, ICCV 2023 (the loss itself). Effective number: Hill,
        "Diversity and Evenness", Ecology 54 (1973), order 1. Gini: Gini, 1912, in the form for sorted values.

    Example:
        >>> focus = attention_focus(torch.full((1, 10, 40), 1 / 40))           # uniform
        >>> round(focus.top_share, 6), round(focus.effective_keys, 3), focus.overlap
        (0.05, 40.0, 0.0)
    """
    if not 0 < top_fraction <= 1:
        raise ValueError(f"expected top_fraction above 0 and at most 1, got {top_fraction}")
    received = received_attention(attention)
    num_keys = received.shape[1]
    # rounded first: 0.05 * 140 is a hair above 7
    num_top = max(1, math.ceil(round(top_fraction * num_keys, 6)))
    ascending = received.sort(dim=1).values
    rank = torch.arange(1, num_keys + 1, dtype=received.dtype, device=received.device)
    gini = (2 * (rank * ascending).sum(dim=1) - (num_keys + 1)) / num_keys
    one_head = attention.unsqueeze(1)
    return AttentionFocus(
        top_share=ascending[:, -num_top:].sum(dim=1).mean().item(),
        effective_keys=torch.special.entr(received).sum(dim=1).exp().mean().item(),
        gini=gini.mean().item(),
        overlap=attention_diversification_from_map(one_head, tau=tau).item(),
        # attention is never negative: without a threshold f is the identity
        cosine=attention_diversification_from_map(one_head, tau=0.0).item(),
    )


def check_attention(name: str, attention: torch.Tensor) -> None:
    """Raise ValueError unless `attention` is a floating-point (B, N, M) map without an empty axis."""
    if attention.ndim != 3 or 0 in attention.shape:
        raise ValueError(
            f"expected {name} of shape (B, N, M), averaged over heads, without an empty axis, "
            f"got {tuple(attention.shape)}"
        )
    if not attention.is_floating_point():
        raise ValueError(f"expected {name} of a floating-point dtype, got {attention.dtype}")
