"""The public calls: arguments are checked here, once, and an implementation is picked."""

import math
from typing import Literal, get_args

import torch

from tapadl.ops.diversification import chunked, reference
from tapadl.ops.numbers import is_number
from tapadl.ops.precision import without_autocast
from tapadl.ops.transforms import is_transformed

DiversificationImpl = Literal["auto", "reference", "chunked"]

# "auto" keeps a map that fits the L2 cache of a core, where computing it twice costs more than reading it:
# 2 x 3 maps of 50 x 50 took 0.4 ms kept and 0.8 ms in blocks. From some 3 MB on blocks are as fast or faster.
KEPT_MAP_BYTES = 1 << 20


def attention_diversification(
    query: torch.Tensor,
    key: torch.Tensor,
    *,
    tau: float = 2.0,
    scale: float | None = None,
    attn_bias: torch.Tensor | None = None,
    is_causal: bool = False,
    impl: DiversificationImpl = "auto",
) -> torch.Tensor:
    """Attention diversification loss of one layer, from the query and key of its attention.

    With A = softmax(scale * query key^T + attn_bias), M its mean over heads, Mbar the mean of M over queries:

        loss = mean over b, i of cos(f(M_bi), f(Mbar_b)),   f(v) = v where v > tau / M_keys, else 0

    Attention in which every query looks at the same few keys scores 1, uniform attention scores 0. A query
    that may attend to nothing has attention 0 and counts with cosine 0.

    Args:
        query: (B, H, N, D), floating point.
        key: (B, H, M, D), floating point. M may differ from N.
        tau: Multiple of the uniform attention 1 / M above which an entry counts, at least 0.
        scale: Factor of the scores, 1 / sqrt(D) by default.
        attn_bias: Broadcastable to (B, H, N, M). A float tensor is added to the scores and receives a
            gradient if it requires one; a boolean one says where a query may attend (True) as in
            `torch.nn.functional.scaled_dot_product_attention`.
        is_causal: Query i attends to keys 0..i only, in addition to `attn_bias`.
        impl: "chunked" computes blocks of rows twice and stores no map: memory grows with N + M, and it can
            be differentiated once. "reference" stores the maps and can be differentiated any number of
            times, in forward mode and under `torch.func` too. "auto" takes "reference" for maps of at most
            1 MiB in all and where only it can be differentiated, and "chunked" elsewhere.

    Returns:
        The loss, a scalar: float64 if query or key is float64, else float32, under autocast too. NaN in
        query, key or a float bias gives NaN.

    Raises:
        ValueError: If shapes, dtypes or devices do not fit, tau is negative or impl is unknown.
        RuntimeError: If "chunked" is to be differentiated twice, in forward mode or under `torch.func`.

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
        attn_bias = _checked_bias(attn_bias, query, key)
    if impl not in get_args(DiversificationImpl):
        raise ValueError(
            f"expected impl to be one of {', '.join(get_args(DiversificationImpl))}, got {impl!r}"
        )
    if impl == "auto":
        impl = "reference" if _keeps_map(query, key, attn_bias) else "chunked"
    if impl == "reference":
        return reference.diversification(query, key, attn_bias, tau, scale, is_causal)
    return chunked.diversification(query, key, attn_bias, tau, scale, is_causal)


def attention_diversification_from_map(attention: torch.Tensor, *, tau: float = 2.0) -> torch.Tensor:
    """Attention diversification loss of one layer, from its attention map.

    The formula is that of `attention_diversification`; this form is for attention that exists as a map.

    Args:
        attention: (B, H, N, M), floating point, rows = queries that sum to 1.
        tau: Multiple of the uniform attention 1 / M above which an entry counts, at least 0.

    Returns:
        The loss, a scalar: float64 if the map is float64, else float32. NaN in the map gives NaN.

    Raises:
        ValueError: If the map is not a floating-point (B, H, N, M) tensor or tau is negative.

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
    with without_autocast(attention.device):
        return reference.diversification_from_map(
            attention.to(torch.promote_types(attention.dtype, torch.float32)), tau
        )


def _keeps_map(query: torch.Tensor, key: torch.Tensor, attn_bias: torch.Tensor | None) -> bool:
    tensors = (query, key) if attn_bias is None else (query, key, attn_bias)
    if not torch.compiler.is_compiling() and is_transformed(*tensors):
        return True
    dtype = torch.promote_types(torch.promote_types(query.dtype, key.dtype), torch.float32)
    map_bytes = math.prod((*query.shape[:3], key.shape[2])) * dtype.itemsize
    return map_bytes <= KEPT_MAP_BYTES


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


def _checked_bias(attn_bias: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """The bias with four axes."""
    if not isinstance(attn_bias, torch.Tensor):
        raise ValueError(f"expected attn_bias to be a tensor or None, got {attn_bias!r}")
    full = (*query.shape[:3], key.shape[2])
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
    if attn_bias.device != query.device:
        raise ValueError(f"expected attn_bias on the device of query, {query.device}, got {attn_bias.device}")
    return attn_bias.reshape(shape)
