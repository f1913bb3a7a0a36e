"""The public calls: arguments are checked here, once, and an implementation is picked."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch

from tapadl.ops.diversification import chunked, reference, single_pass
from tapadl.ops.diversification.visibility import Visibility, may_see, visibility
from tapadl.ops.numbers import is_number
from tapadl.ops.precision import without_autocast
from tapadl.ops.transforms import is_transformed

DiversificationImpl = Literal["auto", "reference", "single_pass", "chunked"]

# "auto" keeps a map that fits the L2 cache of a core, where computing it twice costs more than reading it:
# 2 x 3 maps of 50 x 50 took 0.4 ms kept and 0.8 ms in blocks. From some 3 MB on blocks are as fast or faster.
KEPT_MAP_BYTES = 1 << 20
# "auto" computes the map of an image once, loss and gradient together, while it takes no more than this.
# Longer sequences are computed twice in blocks, of which only a few exist at a time.
SAMPLE_MAP_BYTES = 1 << 24
# Maps of windows are so small that calls cost more than computing twice: 192 maps of 49 x 49 took 4.9 ms in
# blocks and 8.3 ms at once.
SMALL_MAP = 1 << 14


def attention_diversification(
    query: torch.Tensor,
    key: torch.Tensor,
    *,
    tau: float = 2.0,
    scale: float | None = None,
    attn_bias: torch.Tensor | None = None,
    is_causal: bool = False,
    query_fraction: float = 1.0,
    impl: DiversificationImpl = "auto",
) -> torch.Tensor:
    """Attention diversification loss of one layer, from the query and key of its attention.

    With A = softmax(scale * query key^T + attn_bias), M its mean over heads, Mbar the mean of M over queries:

        loss = mean over b, i of cos(f(M_bi), f(Mbar_b)),   f(v) = v where v > tau / M_keys, else 0

    Attention in which every query looks at the same few keys scores 1, uniform attention scores 0.

    Where masks leave a query fewer keys, its row counts above tau / (keys it sees), and the mean row above
    tau times the mean row of uniform attention over what every query sees. A query that sees nothing does not
    count; neither does, in attention of N tokens to themselves, a token that no query sees: it is padding.
    Padding therefore changes nothing.

    Args:
        query: (B, H, N, D), floating point.
        key: (B, H, M, D), floating point. M may differ from N.
        tau: Multiple of the uniform attention 1 / M above which an entry counts, at least 0.
        scale: Factor of the scores, 1 / sqrt(D) by default.
        attn_bias: Broadcastable to (B, H, N, M). A float tensor is added to the scores and receives a
            gradient if it requires one; minus infinity, and what is as good (half the most negative number of
            its dtype, or less), masks. A boolean one says where a query may attend (True), as in
            `torch.nn.functional.scaled_dot_product_attention`.
        is_causal: Query i attends to keys 0..i only, in addition to `attn_bias`.
        query_fraction: Share of the queries, drawn anew in each call, that the loss is computed of; above 0,
            1 for all. Cost shrinks with it. The mean row is that of the drawn queries, so the loss is biased
            upwards, the more the fewer there are.
        impl: "chunked" computes blocks of rows twice and stores no map: memory grows with N + M.
            "single_pass" computes the map of a few images once, loss and gradient together, and is faster
            while these maps stay in the cache. Both can be differentiated once. "reference" stores all maps
            and can be differentiated any number of times, in forward mode and under `torch.func` too. "auto"
            takes "reference" for maps of at most 1 MiB in all and where only it can be differentiated,
            "single_pass" where the map of one image takes at most 16 MiB and that of a head is larger than
            128 x 128, and "chunked" elsewhere.

    Returns:
        The loss, a scalar: float64 if query or key is float64, else float32, under autocast too. NaN in
        query, key or a float bias gives NaN.

    Raises:
        ValueError: If shapes, dtypes or devices do not fit, tau is negative or impl is unknown.
        RuntimeError: If "chunked" or "single_pass" is to be differentiated twice, in forward mode or under
            `torch.func`.

    Source:
        Guo, Stutz, Schiele, "Robustifying Token Attention for Vision Transformers", ICCV 2023.
        The official code loses the batch axis at B = 1 and divides the mean over layers by (layers + 1e-6);
        neither is done here.

    Example:
        >>> query, key = torch.zeros(1, 2, 5, 8), torch.zeros(1, 2, 5, 8)
        >>> attention_diversification(query, key)                        # uniform attention
        tensor(0.)
        >>> key[:, :, 0] = query[:] = 4.0
        >>> attention_diversification(query, key)                        # every query at key 0
        tensor(1.)
    """
    _check_query_key(query, key)
    _check_tau(tau)
    if scale is None:
        scale = query.shape[-1] ** -0.5
    elif not is_number(scale):
        raise ValueError(f"expected scale to be a number or None, got {scale!r}")
    elif not abs(scale) < math.inf:
        raise ValueError(f"expected a finite scale, got {scale}")
    if attn_bias is not None:
        attn_bias = _checked_bias(attn_bias, (*query.shape[:3], key.shape[2]), query.device)
    if impl not in get_args(DiversificationImpl):
        raise ValueError(
            f"expected impl to be one of {', '.join(get_args(DiversificationImpl))}, got {impl!r}"
        )
    _check_fraction(query_fraction)
    shape = (*query.shape[:3], key.shape[2])
    dtype = torch.promote_types(torch.promote_types(query.dtype, key.dtype), torch.float32)
    visible = _visible(shape, attn_bias, is_causal, query.new_empty(0, dtype=dtype))
    if query_fraction < 1:
        query, attn_bias, is_causal, visible = _drawn(
            query, key, attn_bias, is_causal, visible, query_fraction
        )
    if impl == "auto":
        impl = _choice(query, key, attn_bias)
    return _IMPLEMENTATIONS[impl](query, key, attn_bias, visible, tau, scale, is_causal)


_IMPLEMENTATIONS = {
    "reference": reference.diversification,
    "single_pass": single_pass.diversification,
    "chunked": chunked.diversification,
}


def attention_diversification_from_map(
    attention: torch.Tensor, *, tau: float = 2.0, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Attention diversification loss of one layer, from its attention map.

    The formula is that of `attention_diversification`; this form is for attention that exists as a map.

    Args:
        attention: (B, H, N, M), floating point, rows = queries that sum to 1.
        tau: Multiple of the uniform attention 1 / M above which an entry counts, at least 0.
        mask: Boolean, broadcastable to (B, H, N, M): where a query might attend (True). None for everywhere.

    Returns:
        The loss, a scalar: float64 if the map is float64, else float32. NaN in the map gives NaN.

    Raises:
        ValueError: If the map is not a floating-point (B, H, N, M) tensor, the mask does not fit it or tau is
            negative.

    Source:
        Guo, Stutz, Schiele, "Robustifying Token Attention for Vision Transformers", ICCV 2023.

    Example:
        >>> collapsed = torch.zeros(1, 2, 4, 4)
        >>> collapsed[..., 0] = 1.0
        >>> attention_diversification_from_map(collapsed)
        tensor(1.)
        >>> attention_diversification_from_map(torch.eye(4).expand(1, 2, 4, 4))  # all rows differ
        tensor(0.)
    """
    _check_four_axes("attention", attention, "(B, H, N, M)")
    _check_tau(tau)
    wide = attention.to(torch.promote_types(attention.dtype, torch.float32))
    visible = None
    if mask is not None:
        if not isinstance(mask, torch.Tensor) or mask.dtype != torch.bool:
            raise ValueError(f"expected mask to be a boolean tensor or None, got {mask!r}")
        mask = _checked_bias(mask, tuple(attention.shape), attention.device)
        visible = _visible(wide.shape, mask, False, like=wide)
    with without_autocast(attention.device):
        return reference.diversification_from_map(wide, tau, visible)


def _choice(query: torch.Tensor, key: torch.Tensor, attn_bias: torch.Tensor | None) -> DiversificationImpl:
    tensors = (query, key) if attn_bias is None else (query, key, attn_bias)
    if not torch.compiler.is_compiling() and is_transformed(*tensors):
        return "reference"
    dtype = torch.promote_types(torch.promote_types(query.dtype, key.dtype), torch.float32)
    sample_bytes = math.prod((*query.shape[1:3], key.shape[2])) * dtype.itemsize
    if query.shape[0] * sample_bytes <= KEPT_MAP_BYTES:
        return "reference"
    large = query.shape[2] * key.shape[2] > SMALL_MAP
    return "single_pass" if large and sample_bytes <= SAMPLE_MAP_BYTES else "chunked"


def _visible(
    shape: Sequence[int], attn_bias: torch.Tensor | None, is_causal: bool, like: torch.Tensor
) -> Visibility | None:
    """What bias and causal mask leave of attention (B, H, N, M); None if there is neither."""
    if attn_bias is None and not is_causal:
        return None
    batch, _, rows, keys = shape
    mask = None if attn_bias is None else may_see(attn_bias)
    query_mask = None
    if mask is not None and rows == keys:
        query_mask = mask.any(dim=1).any(dim=1).expand(batch, rows)  # of a token that no query sees
    return visibility((batch, rows, keys), mask, is_causal, query_mask, like)


def _drawn(
    query: torch.Tensor,
    key: torch.Tensor,
    attn_bias: torch.Tensor | None,
    is_causal: bool,
    visible: Visibility | None,
    fraction: float,
) -> tuple[torch.Tensor, torch.Tensor | None, bool, Visibility | None]:
    """Random queries, the same of every image, with their rows of the masks."""
    rows, keys = query.shape[2], key.shape[2]
    drawn = torch.randperm(rows, device=query.device)[: max(1, round(fraction * rows))].sort().values
    if attn_bias is not None and attn_bias.shape[2] > 1:
        attn_bias = attn_bias[:, :, drawn]
    if is_causal:
        seen = torch.arange(keys, device=query.device) <= drawn[:, None]
        attn_bias = _both(seen[None, None], attn_bias)
    if visible is not None:
        mask = None if attn_bias is None else may_see(attn_bias)
        keys_seen = visible.keys_seen[:, drawn]
        size = (query.shape[0], len(drawn), keys)
        visible = visibility(size, mask, False, keys_seen > 0, keys_seen)
    return query[:, :, drawn], attn_bias, False, visible


def _both(seen: torch.Tensor, attn_bias: torch.Tensor | None) -> torch.Tensor:
    if attn_bias is None:
        return seen
    return seen & attn_bias if attn_bias.dtype == torch.bool else attn_bias.masked_fill(~seen, -torch.inf)


def _check_fraction(query_fraction: float) -> None:
    if not is_number(query_fraction) or not 0 < query_fraction <= 1:
        raise ValueError(f"expected query_fraction above 0 and at most 1, got {query_fraction!r}")


def _check_query_key(query: torch.Tensor, key: torch.Tensor) -> None:
    _check_four_axes("query", query, "(B, H, N, D)")
    _check_four_axes("key", key, "(B, H, M, D)")
    for axis, what in ((0, "batch size"), (1, "number of heads"), (3, "head width")):
        if query.shape[axis] != key.shape[axis]:
            raise ValueError(
                f"expected query and key of the same {what}, "
                f"got query {tuple(query.shape)} and key {tuple(key.shape)}"
            )
    if query.device != key.device:
        raise ValueError(f"expected query and key on one device, got {query.device} and {key.device}")


def _check_four_axes(name: str, tensor: torch.Tensor, axes: str) -> None:
    if tensor.ndim != 4 or 0 in tensor.shape:
        raise ValueError(f"expected {name} of shape {axes} without an empty axis, got {tuple(tensor.shape)}")
    if not tensor.is_floating_point():
        raise ValueError(f"expected {name} of a floating-point dtype, got {tensor.dtype}")


def _check_tau(tau: float) -> None:
    if not is_number(tau):
        raise ValueError(f"expected tau to be a number, got {tau!r}")
    if not tau >= 0:
        raise ValueError(f"expected tau of at least 0, got {tau}")


def _checked_bias(attn_bias: torch.Tensor, full: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """The bias with four axes."""
    if not isinstance(attn_bias, torch.Tensor):
        raise ValueError(f"expected attn_bias to be a tensor or None, got {attn_bias!r}")
    shape = (1,) * (4 - attn_bias.ndim) + tuple(attn_bias.shape)
    if len(shape) != 4 or any(given not in (1, size) for given, size in zip(shape, full, strict=True)):
        raise ValueError(
            f"expected attn_bias broadcastable to (B, H, N, M) = {full}, got shape {tuple(attn_bias.shape)}"
        )
    if not (attn_bias.is_floating_point() or attn_bias.dtype == torch.bool):
        raise ValueError(
            f"expected attn_bias of a floating-point dtype (added) or bool (True = may attend), "
            f"got {attn_bias.dtype}"
        )
    if attn_bias.device != device:
        raise ValueError(f"expected attn_bias on the device of query, {device}, got {attn_bias.device}")
    return attn_bias.reshape(shape)
