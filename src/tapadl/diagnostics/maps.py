"""The attention maps of a model on given images, without gradients and without changing the model."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from tapadl.attach.capture import AttentionCapture, Captured, StoredMap
from tapadl.attach.site import Site, select_sites
from tapadl.ops.diversification.reference import attention_map


def head_mean_attention(
    model: nn.Module,
    images: torch.Tensor,
    *,
    blocks: Sequence[int] | None = None,
    sites: Sequence[Site] | None = None,
) -> list[torch.Tensor]:
    """Attention of every layer, averaged over heads, as the model computes it in evaluation mode.

    `M = mean over heads h of softmax(scale * query_h key_h^T + attn_bias)`. Fused kernels stay on; heads are
    computed one at a time, so that beside the returned maps only a few of that size exist. The model keeps
    its mode and its batch-norm statistics.

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
    chosen = select_sites(model, sites, blocks)
    for name, site in chosen:
        if site.refuses_adl:
            raise ValueError(
                f"no attention map at {name}: {site.refuses_adl}; leave it out with blocks=[...]"
            )
    capture = AttentionCapture(model, [site for _, site in chosen], without_grad=True)
    try:
        with torch.no_grad(), evaluation_mode(model):
            model(images)
        taken = capture.take()
    finally:
        capture.close()
    for (name, _), calls in zip(chosen, taken, strict=True):
        if not calls:
            raise RuntimeError(
                f"expected the attention at {name} of {type(model).__name__} to compute a softmax, got none; "
                f"leave this block out with blocks=[...]"
            )
    return [_head_mean(call) for calls in taken for call in calls]


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; afterwards every module is in the mode it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@torch.no_grad()
def _head_mean(call: Captured) -> torch.Tensor:
    if isinstance(call, StoredMap):
        attention = call.attention
        return attention.to(torch.promote_types(attention.dtype, torch.float32)).mean(dim=1)
    query, key, bias = call.query, call.key, call.attn_bias
    dtype = torch.promote_types(torch.promote_types(query.dtype, key.dtype), torch.float32)
    scale = query.shape[-1] ** -0.5 if call.scale is None else call.scale
    num_heads = query.shape[1]
    mean = torch.zeros(query.shape[0], query.shape[2], key.shape[2], dtype=dtype, device=query.device)
    with torch.autocast(query.device.type, enabled=False):
        for head in range(num_heads):
            of_head = slice(head, head + 1)
            mean += attention_map(
                query[:, of_head].to(dtype),
                key[:, of_head].to(dtype),
                None if bias is None else _bias_of_head(bias, of_head, dtype),
                scale,
                call.is_causal,
            ).squeeze(1)
    return mean.div_(num_heads)


def _bias_of_head(bias: torch.Tensor, of_head: slice, dtype: torch.dtype) -> torch.Tensor:
    bias = bias[(None,) * (4 - bias.ndim)]
    bias = bias[:, of_head] if bias.shape[1] > 1 else bias
    return bias if bias.dtype == torch.bool else bias.to(dtype)
