"""Whole attention maps of a model on given images, for pictures; numbers need none of them."""

from collections.abc import Sequence

import torch
from torch import nn

from tapadl.attach.site import Site
from tapadl.diagnostics.listening import listen, loss_sites
from tapadl.diagnostics.rows import Rows


def head_mean_attention(
    model: nn.Module,
    images: torch.Tensor,
    *,
    blocks: Sequence[int] | None = None,
    sites: Sequence[Site] | None = None,
) -> list[torch.Tensor]:
    """Attention of every layer, averaged over heads, as the model computes it in evaluation mode.

    `M = mean over heads h of softmax(scale * query_h key_h^T + attn_bias)`. Fused kernels stay on; beside the
    returned maps only blocks of rows exist. The model keeps its mode and its batch-norm statistics.

    Args:
        model: A model that `AttentionDiversificationLoss` can listen to.
        images: What the model takes, (B, C, H, W), floating point, on its device; pass them in batches.
        blocks: Indices of the sites to look at; None for all.
        sites: The sites themselves, for a model of one's own.

    Returns:
        One map (B, N, M) for each attention, in order of the blocks, rows = queries with sum 1, in at least
        float32; prefix tokens included.

    Raises:
        ValueError: If no site is found, an index is out of range, or a site is not one softmax over tokens.
        RuntimeError: If a site computed no attention.

    Source:
        Guo, Stutz, Schiele, ICCV 2023: ADL reads the same head-averaged map.

    Example:
        >>> import timm
        >>> model = timm.create_model("vit_tiny_patch16_224", depth=2)
        >>> [tuple(attention.shape) for attention in head_mean_attention(model, torch.zeros(1, 3, 224, 224))]
        [(1, 197, 197), (1, 197, 197)]
    """
    chosen = loss_sites(model, blocks, sites)
    found: list[list[torch.Tensor]] = [[] for _ in chosen]
    listen(model, images, chosen, lambda index, rows: found[index].append(_head_mean(rows)))
    return [attention for of_site in found for attention in of_site]


def _head_mean(rows: Rows) -> torch.Tensor:
    batch, _, queries, keys = rows.size
    mean = rows.like.new_empty(batch, queries, keys)
    for samples, at, attention in rows.blocks():
        mean[samples, at] = attention.mean(dim=1)
    return mean
