"""The attention diversification loss without attention maps: blocks of rows, for any device.

B batch, H heads, N queries, M keys, D head width; of a tile: S samples, R rows, K keys seen.

Notation, for one sample, with A (H, N, M) the attention:

    M_ij = mean_h A_hij,   Mbar_j = mean_i M_ij,   f(v) = v where v > tau / M, else 0
    n_i = |f(M_i)|,   s = f(Mbar),   n_s = |s|,   c_i = f(M_i) . s / (n_i n_s)
    loss = mean over b, i of c_i

Forward, in one pass. c_i needs s, and s needs every row; but s stands outside the sum over rows,

    sum_i c_i = u . s / n_s   with   u_j = sum_i f(M_ij) / n_i,

and u and Mbar grow together, row by row. The backward needs s, u and for every row its peak, the largest of
its scores, with the sum of exp(score - peak).

Backward, in one pass. The threshold does not move, so f' = [v > tau / M]. With w = upstream / (B N), the mean
row feels all the cosines through s, a row its own cosine and the mean row:

    dMbar_j = w [s_j > 0] (u_j / n_s - (sum_i c_i) s_j / n_s^2)
    dM_ij   = w [M_ij > tau / M] (s_j / (n_i n_s) - c_i M_ij / n_i^2) + dMbar_j / N
    dA_hij  = dM_ij / H,   dS_hij = A_hij (dA_hij - sum_k A_hik dA_hik)   (softmax)
    dq_i = scale sum_j dS_ij k_j,   dk_j = scale sum_i dS_ij q_i,   dbias = dS summed where it was broadcast

A is computed again, by one product: with columns -(peak + log sum) - log H beside q and 1 beside k, exp of
the product is A / H. Four products and two exponentials in all, where stored maps take three and one. A float
bias may mask a row with numbers so large that the logarithm is lost beside them; there the peak is subtracted
once the bias is on, as in the forward, and the sum divides what exp leaves.

A row with n_i = 0 has no entry above its threshold and drops out of every sum. Any other norm is at least
tau / M, or 1 / (H N sqrt(M)) at tau = 0: the eps of the cosine only keeps 0 / 0 away.
"""

import math
from functools import partial
from typing import Any, NoReturn

import torch

from tapadl.ops.diversification.tiles import Layer, shaped, slices, window
from tapadl.ops.transforms import is_transformed

COSINE_EPS = 1e-8


def diversification(
    query: torch.Tensor,
    key: torch.Tensor,
    attn_bias: torch.Tensor | None,
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
    loss: torch.Tensor = _forward(query, key, attn_bias, tau, scale, is_causal)[0]
    return loss


def _inverse_norm(rows: torch.Tensor) -> torch.Tensor:
    norm: torch.Tensor = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return norm.clamp_(min=COSINE_EPS).reciprocal_()


@torch.library.custom_op("tapadl::diversification", mutates_args=())
def _forward(
    query: torch.Tensor,
    key: torch.Tensor,
    attn_bias: torch.Tensor | None,
    tau: float,
    scale: float,
    is_causal: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The loss; peak and sum of every row, each (B, H, N); s and u of the derivation (B, M)."""
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
                    if attn_bias is not None:
                        peak.masked_fill_(peak == -torch.inf, 0.0)
                    exp_sum = tile.sub_(peak).exp_().sum(dim=-1, keepdim=True)
                    if attn_bias is not None:
                        exp_sum.masked_fill_(exp_sum == 0, 1.0)
                    row_peak[samples, heads, rows] = peak.squeeze(-1)
                    row_sum[samples, heads, rows] = exp_sum.squeeze(-1)
                    weight = exp_sum.mul_(H).reciprocal_()
                    for head in range(tile.shape[1]):
                        mean.addcmul_(tile[:, head], weight[:, head])
                mean_row[samples, :K] += mean.sum(dim=1)
                torch.threshold_(mean, tau / M, 0.0)
                unit_sum[samples, :K] += (_inverse_norm(mean).mT @ mean).squeeze(1)
        torch.threshold_(mean_row.div_(N), tau / M, 0.0)
        loss = (unit_sum * mean_row * _inverse_norm(mean_row)).sum() / (B * N)
    return loss, row_peak, row_sum, mean_row, unit_sum


@torch.library.custom_op("tapadl::diversification_backward", mutates_args=())
def _backward(
    upstream: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    attn_bias: torch.Tensor | None,
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

    with torch.autocast(query.device.type, enabled=False):
        w = upstream / (B * N)
        for samples in slices(B, tile_samples):
            S = samples.stop - samples.start
            q, key_t, k = query_buffer[:S], key_buffer[:S], key[samples].to(layer.dtype).contiguous()
            torch.mul(query[samples].to(layer.dtype), scale, out=q[..., :D])
            if folded:
                torch.add(row_peak[samples], row_sum[samples].log(), out=q[..., D]).add_(math.log(H)).neg_()
            key_t[:, :, :D] = k.mT
            inverse_s = _inverse_norm(mean_row[samples])
            unit_s = mean_row[samples] * inverse_s
            cosine_sum = (unit_sum[samples] * unit_s).sum(dim=-1, keepdim=True)
            slope_s = w / N * (unit_s > 0) * (unit_sum[samples] - cosine_sum * unit_s) * inverse_s
            for rows in slices(N, tile_rows):
                R, K = rows.stop - rows.start, layer.keys_seen(rows)
                attention = shaped(attention_buffer, S, H, R, K)  # A / H
                mean = shaped(mean_buffer, S, R, K).zero_()
                for heads in slices(H, tile_heads):
                    layer.scores(q, key_t, samples, heads, rows, out=attention[:, heads])
                    if folded:
                        attention[:, heads].exp_()
                    else:
                        attention[:, heads].sub_(row_peak[samples, heads, rows, None]).exp_()
                        attention[:, heads].mul_((row_sum[samples, heads, rows, None] * H).reciprocal_())
                    for head in range(heads.start, heads.stop):
                        mean.add_(attention[:, head])

                kept = torch.threshold_(mean, tau / M, 0.0)
                inverse_n = _inverse_norm(kept)
                cosine = kept @ unit_s[:, :K, None] * inverse_n
                slope = torch.mul(kept, -w * cosine * inverse_n.square(), out=shaped(slope_buffer, S, R, K))
                above = kept.sign_()
                slope.addcmul_(above.mul_(unit_s[:, None, :K]), w * inverse_n).add_(slope_s[:, None, :K])

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
        if attn_bias is not None:
            grad_bias = grad_bias.to(attn_bias.dtype)
    return grad_query.to(query.dtype), grad_key_t.to(key.dtype), grad_bias


@_forward.register_fake
def _(
    query: torch.Tensor,
    key: torch.Tensor,
    attn_bias: torch.Tensor | None,
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
    query, key, attn_bias, *ctx.settings = inputs
    ctx.save_for_backward(query, key, attn_bias, *output[1:])


def _differentiate(ctx: Any, upstream: torch.Tensor, *_: object) -> tuple[torch.Tensor | None, ...]:
    needs = ctx.needs_input_grad
    grad_query, grad_key_t, grad_bias = _backward(upstream, *ctx.saved_tensors, *ctx.settings, needs[2])
    grads = (grad_query, grad_key_t.mT, grad_bias)
    return *(grad if need else None for grad, need in zip(grads, needs, strict=False)), None, None, None


def _refuse_second_derivative(ctx: Any, *_: object) -> NoReturn:
    raise RuntimeError(
        'expected one backward through the chunked diversification loss, got two; use impl="reference"'
    )


_forward.register_autograd(_differentiate, setup_context=_setup_context)
_backward.register_autograd(_refuse_second_derivative)
