"""The attention diversification loss without attention maps: blocks of rows, for any device.

B batch, H heads, N queries, M keys, D head width; of a tile: S samples, R rows, K keys seen.

The arithmetic of rows stands in `cosines.py`: a forward that gathers the sums of M and X / |X| over the rows,
and, once these are whole, the slope G_ij = dL / dM_ij of every row.

Forward, in one pass. The backward needs the two sums and for every row its peak, the largest of its scores,
with the sum of exp(score - peak).

Backward, in one pass:

    dA_hij = G_ij / H,   dS_hij = A_hij (dA_hij - sum_k A_hik dA_hik)   (softmax)
    dq_i = scale sum_j dS_ij k_j,   dk_j = scale sum_i dS_ij q_i,   dbias = dS summed where it was broadcast

A is computed again, by one product: with columns -(peak + log sum) - log H beside q and 1 beside k, exp of
the product is A / H. Four products and two exponentials in all, where stored maps take three and one. A float
bias may mask a row with numbers so large that the logarithm is lost beside them; there the peak is subtracted
once the bias is on, as in the forward, and the sum divides what exp leaves.
"""

import math
from functools import partial
from typing import Any, NoReturn

import torch

from tapadl.ops.diversification.cosines import cosines
from tapadl.ops.diversification.tiles import Layer, shaped, slices, window
from tapadl.ops.diversification.visibility import Visibility
from tapadl.ops.transforms import is_transformed


def diversification(
    query: torch.Tensor,
    key: torch.Tensor,
    attn_bias: torch.Tensor | None,
    visible: Visibility | None,
    tau: float,
    scale: float,
    is_causal: bool,
) -> torch.Tensor:
    """The loss from (B, H, N, D) queries and (B, H, M, D) keys, in at least float32, differentiable once.

    Raises:
        RuntimeError: Under transforms of `torch.func` and forward-mode differentiation.
    """
    tensors = (query, key) if attn_bias is None else (query, key, attn_bias)
    if not torch.compiler.is_compiling() and is_transformed(*tensors):
        # Forward mode would give a tangent of 0 without a word.
        raise RuntimeError(
            "expected no transform of torch.func and no forward-mode differentiation around the chunked "
            'diversification loss, which knows one backward only; use impl="reference"'
        )
    keys_seen, uniform_mean = (None, None) if visible is None else (visible.keys_seen, visible.uniform_mean)
    loss: torch.Tensor = _forward(query, key, attn_bias, keys_seen, uniform_mean, tau, scale, is_causal)[0]
    return loss


@torch.library.custom_op("tapadl::diversification", mutates_args=())
def _forward(
    query: torch.Tensor,
    key: torch.Tensor,
    attn_bias: torch.Tensor | None,
    keys_seen: torch.Tensor | None,
    uniform_mean: torch.Tensor | None,
    tau: float,
    scale: float,
    is_causal: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The loss; peak and sum of every row, each (B, H, N); s and u of `cosines.py` (B, M)."""
    layer = Layer(query, key, attn_bias, scale, is_causal)
    (B, H, N, D), M = query.shape, key.shape[2]
    tile_samples, tile_heads, tile_rows = layer.tile_sizes()
    new = partial(torch.empty, dtype=layer.dtype, device=query.device)
    row_peak, row_sum = new(B, H, N), new(B, H, N)
    mean_row, unit_sum = new(B, M).zero_(), new(B, M).zero_()
    query_buffer, key_buffer = new(tile_samples, H, N, D), new(tile_samples, H, D, M)
    tile_buffer, mean_buffer = (
        new(tile_samples * tile_heads * tile_rows * M),
        new(tile_samples * tile_rows * M),
    )
    measure = cosines(tau, (B, N, M), keys_seen, uniform_mean, like=row_sum)
    loss = new(()).zero_()

    with torch.autocast(query.device.type, enabled=False):
        for samples in slices(B, tile_samples):
            S = samples.stop - samples.start
            q = torch.mul(query[samples].to(layer.dtype), scale, out=query_buffer[:S])
            key_t = key_buffer[:S].copy_(key[samples].mT)
            for rows in slices(N, tile_rows):
                R, K = rows.stop - rows.start, layer.keys_seen(rows)
                mean = shaped(mean_buffer, S, R, K).zero_()
                for heads in slices(H, tile_heads):
                    tile = shaped(tile_buffer, S, heads.stop - heads.start, R, K)
                    layer.scores(q, key_t, samples, heads, rows, out=tile)
                    peak = tile.amax(dim=-1, keepdim=True)
                    blind = None if attn_bias is None else peak == -torch.inf
                    if blind is not None:
                        peak.masked_fill_(blind, 0.0)
                    tile.sub_(peak)
                    exp_sum = layer.without_infinity(tile).exp_().sum(dim=-1, keepdim=True)
                    if blind is not None:
                        exp_sum.masked_fill_(blind, torch.inf)  # a head that sees nothing adds nothing
                    row_peak[samples, heads, rows] = peak.squeeze(-1)
                    row_sum[samples, heads, rows] = exp_sum.squeeze(-1)
                    weight = exp_sum.mul_(H).reciprocal_()
                    for head in range(tile.shape[1]):
                        mean.addcmul_(tile[:, head], weight[:, head])
                measure.gather(mean, samples, rows, mean_row[samples, :K], unit_sum[samples, :K])
            measure.cut_mean_row(mean_row[samples], samples)
            loss += measure.loss(mean_row[samples], unit_sum[samples], samples)
    return loss, row_peak, row_sum, mean_row, unit_sum


@torch.library.custom_op("tapadl::diversification_backward", mutates_args=())
def _backward(
    upstream: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    attn_bias: torch.Tensor | None,
    keys_seen: torch.Tensor | None,
    uniform_mean: torch.Tensor | None,
    row_peak: torch.Tensor,
    row_sum: torch.Tensor,
    mean_row: torch.Tensor,
    unit_sum: torch.Tensor,
    tau: float,
    scale: float,
    is_causal: bool,
    bias_needs_grad: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of query, of key with its last two axes swapped, of the bias (empty unless it needs one)."""
    layer = Layer(query, key, attn_bias, scale, is_causal)
    (B, H, N, D), M = query.shape, key.shape[2]
    tile_samples, tile_heads, tile_rows = layer.tile_sizes()
    new = partial(torch.empty, dtype=layer.dtype, device=query.device)
    grad_query, grad_key_t = new(B, H, N, D), new(B, H, D, M).zero_()
    grad_bias = new(attn_bias.shape if attn_bias is not None and bias_needs_grad else 0).zero_()
    folded = attn_bias is None or attn_bias.dtype == torch.bool
    width = D + 1 if folded else D
    query_buffer, key_buffer = new(tile_samples, H, N, width), new(tile_samples, H, width, M)
    key_buffer[:, :, D:] = 1.0
    tile_buffer = new(tile_samples * tile_heads * tile_rows * M)
    attention_buffer = new(tile_samples * H * tile_rows * M)
    mean_buffer, slope_buffer = new(2, tile_samples * tile_rows * M)
    measure = cosines(tau, (B, N, M), keys_seen, uniform_mean, like=row_sum)

    with torch.autocast(query.device.type, enabled=False):
        for samples in slices(B, tile_samples):
            S = samples.stop - samples.start
            q, key_t, k = query_buffer[:S], key_buffer[:S], key[samples].to(layer.dtype).contiguous()
            torch.mul(query[samples].to(layer.dtype), scale, out=q[..., :D])
            if folded:
                torch.add(row_peak[samples], row_sum[samples].log(), out=q[..., D]).add_(math.log(H)).neg_()
            key_t[:, :, :D] = k.mT
            shared = measure.mean_row(mean_row[samples], unit_sum[samples], samples)
            for rows in slices(N, tile_rows):
                R, K = rows.stop - rows.start, layer.keys_seen(rows)
                attention = shaped(attention_buffer, S, H, R, K)  # A / H
                mean = shaped(mean_buffer, S, R, K).zero_()
                for heads in slices(H, tile_heads):
                    layer.scores(q, key_t, samples, heads, rows, out=attention[:, heads])
                    if folded:
                        layer.without_infinity(attention[:, heads]).exp_()
                    else:
                        attention[:, heads].sub_(row_peak[samples, heads, rows, None])
                        layer.without_infinity(attention[:, heads]).exp_()
                        attention[:, heads].mul_((row_sum[samples, heads, rows, None] * H).reciprocal_())
                    for head in range(heads.start, heads.stop):
                        mean.add_(attention[:, head])

                measure.cut(mean, samples, rows)
                slope = measure.slope(mean, shared, samples, rows, out=shaped(slope_buffer, S, R, K))
                for heads in slices(H, tile_heads):
                    tile = shaped(tile_buffer, S, heads.stop - heads.start, R, K)
                    torch.mul(attention[:, heads], slope.unsqueeze(1), out=tile)
                    tile.addcmul_(attention[:, heads], tile.sum(dim=-1, keepdim=True), value=-H)
                    if bias_needs_grad and attn_bias is not None:
                        part = grad_bias[window(grad_bias, samples, heads, rows, slice(K))]
                        part += tile.sum_to_size(part.shape)
                    grad_query[samples, heads, rows] = (tile @ k[:, heads, :K]).mul_(scale)
                    grad_key_t[samples, heads, :, :K].flatten(0, 1).baddbmm_(
                        q[:, heads, rows, :D].flatten(0, 1).mT, tile.flatten(0, 1)
                    )
        for grad in (grad_query, grad_key_t, grad_bias):
            grad.mul_(upstream)
        if attn_bias is not None:
            grad_bias = grad_bias.to(attn_bias.dtype)
    return grad_query.to(query.dtype), grad_key_t.to(key.dtype), grad_bias


@_forward.register_fake
def _(
    query: torch.Tensor,
    key: torch.Tensor,
    attn_bias: torch.Tensor | None,
    keys_seen: torch.Tensor | None,
    uniform_mean: torch.Tensor | None,
    tau: float,
    scale: float,
    is_causal: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    (B, H, N, _), M = query.shape, key.shape[2]
    new = partial(query.new_empty, dtype=Layer(query, key, attn_bias, scale, is_causal).dtype)
    return new(()), new((B, H, N)), new((B, H, N)), new((B, M)), new((B, M))


@_backward.register_fake
def _(
    upstream: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    attn_bias: torch.Tensor | None,
    keys_seen: torch.Tensor | None,
    uniform_mean: torch.Tensor | None,
    row_peak: torch.Tensor,
    row_sum: torch.Tensor,
    mean_row: torch.Tensor,
    unit_sum: torch.Tensor,
    tau: float,
    scale: float,
    is_causal: bool,
    bias_needs_grad: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    grad_bias = mean_row.new_empty(0) if attn_bias is None or not bias_needs_grad else attn_bias
    return (
        query.new_empty(query.shape),
        key.new_empty(key.mT.shape),
        grad_bias.new_empty(grad_bias.shape),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    *tensors, tau, scale, is_causal = inputs
    ctx.settings = tau, scale, is_causal
    ctx.save_for_backward(*tensors, *output[1:])


def _differentiate(ctx: Any, upstream: torch.Tensor, *_: object) -> tuple[torch.Tensor | None, ...]:
    needs = ctx.needs_input_grad
    grad_query, grad_key_t, grad_bias = _backward(upstream, *ctx.saved_tensors, *ctx.settings, needs[2])
    grads = (grad_query, grad_key_t.mT, grad_bias)
    return *(grad if need else None for grad, need in zip(grads, needs, strict=False)), *(
        None for _ in range(5)
    )


def _refuse_second_derivative(ctx: Any, *_: object) -> NoReturn:
    raise RuntimeError(
        'expected one backward through the chunked diversification loss, got two; use impl="reference"'
    )


_forward.register_autograd(_differentiate, setup_context=_setup_context)
_backward.register_autograd(_refuse_second_derivative)
