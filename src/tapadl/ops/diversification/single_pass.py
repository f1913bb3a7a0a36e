"""The attention diversification loss with its gradient in one go, sample by sample, while the map is at hand.

B batch, H heads, N queries, M keys, D head width; of a tile: S samples, R rows, K keys seen.

The loss is a scalar, so its gradient is known up to one factor as soon as the loss is: the forward computes
the map of a few samples, what it adds to the loss, and from the same map the gradients of query and key; the
backward multiplies them by the upstream gradient. This takes three products and one exponential, as stored
maps do, but a map lives as long as its samples are worked on, in the cache if it fits, and what is kept until
the backward has the size of query and key. The whole map of a sample must fit in memory, though: longer
sequences are for `chunked.py`. The arithmetic of rows is in `cosines.py`; with G_ij = dL / dM_ij,

    dA_hij = G_ij / H,   dS_hij = A_hij (dA_hij - sum_k A_hik dA_hik)   (softmax)
    dq_i = scale sum_j dS_ij k_j,   dk_j = scale sum_i dS_ij q_i,   dbias = dS summed where it was broadcast
"""

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
            "expected no transform of torch.func and no forward-mode differentiation around the single-pass "
            'diversification loss, which knows one backward only; use impl="reference"'
        )
    keys_seen, uniform_mean = (None, None) if visible is None else (visible.keys_seen, visible.uniform_mean)
    bias_needs_grad = torch.is_grad_enabled() and attn_bias is not None and attn_bias.requires_grad
    needs_grad = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    loss: torch.Tensor = _loss_and_gradients(
        query,
        key,
        attn_bias,
        keys_seen,
        uniform_mean,
        tau,
        scale,
        is_causal,
        needs_grad,
        bias_needs_grad,
    )[0]
    return loss


@torch.library.custom_op("tapadl::diversification_single_pass", mutates_args=())
def _loss_and_gradients(
    query: torch.Tensor,
    key: torch.Tensor,
    attn_bias: torch.Tensor | None,
    keys_seen: torch.Tensor | None,
    uniform_mean: torch.Tensor | None,
    tau: float,
    scale: float,
    is_causal: bool,
    needs_grad: bool,
    bias_needs_grad: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The loss; its gradients by query (B, N, H, D), key (B, M, H, D) and bias, each empty unless needed."""
    layer = Layer(query, key, attn_bias, scale, is_causal)
    (B, H, N, D), M = query.shape, key.shape[2]
    tile_samples, tile_rows = layer.map_sizes()
    new = partial(torch.empty, dtype=layer.dtype, device=query.device)
    loss = new(()).zero_()
    # The layout that a fused attention gives its gradients, which are added to these.
    grad_query, grad_key = (new((B, n, H, D) if needs_grad else 0) for n in (N, M))
    grad_bias = new(attn_bias.shape if attn_bias is not None and bias_needs_grad else 0).zero_()
    # Heads first: the rows of one head are then contiguous, and the mean over heads is a product.
    query_buffer, key_buffer = new(H * tile_samples * N * D), new(H * tile_samples * M * D)
    grad_key_buffer, grad_query_buffer = new(H * tile_samples * M * D), new(H * tile_samples * tile_rows * D)
    map_buffer, mean_buffer = new(H * tile_samples * N * M), new(tile_samples * N * M)
    tile_buffer, slope_buffer = new(H * tile_samples * tile_rows * M), new(tile_samples * tile_rows * M)
    over_heads = new(1, H).fill_(1 / H)
    measure = cosines(tau, (B, N, M), keys_seen, uniform_mean, like=loss)

    with torch.autocast(query.device.type, enabled=False):
        for samples in slices(B, tile_samples):
            S = samples.stop - samples.start
            q, k = shaped(query_buffer, H, S, N, D), shaped(key_buffer, H, S, M, D)
            torch.mul(query[samples].transpose(0, 1).to(layer.dtype), scale, out=q)
            k.copy_(key[samples].transpose(0, 1))
            row_sum, unit_sum = new(2, S, M).zero_()
            blocks = []
            for rows in slices(N, tile_rows):
                R, K = rows.stop - rows.start, layer.keys_seen(rows)
                attention = shaped(map_buffer[H * S * rows.start * M :], H, S, R, K)
                mean = shaped(mean_buffer[S * rows.start * M :], S, R, K)
                scores = shaped(tile_buffer, H, S, R, K)
                torch.bmm(_flat(q[:, :, rows]), _flat(k[:, :, :K]).mT, out=_flat(scores))
                layer.mask(scores.transpose(0, 1), samples, slice(0, H), rows)
                torch.softmax(scores, dim=-1, out=attention)
                if attn_bias is not None:
                    attention.masked_fill_(scores.amax(dim=-1, keepdim=True) == -torch.inf, 0.0)
                torch.mm(over_heads, attention.view(H, -1), out=mean.view(1, -1))
                measure.gather(mean, samples, rows, row_sum[:, :K], unit_sum[:, :K])
                blocks.append((rows, attention, mean))
            mean_row = measure.cut_mean_row(row_sum, samples)
            loss += measure.loss(mean_row, unit_sum, samples)
            if not needs_grad:
                continue

            shared = measure.mean_row(mean_row, unit_sum, samples)
            grad_k = shaped(grad_key_buffer, H, S, M, D).zero_()
            for rows, attention, mean in blocks:
                R, K = mean.shape[1:]
                slope = measure.slope(mean, shared, samples, rows, out=shaped(slope_buffer, S, R, K))
                tile = shaped(tile_buffer, H, S, R, K)  # H dS
                for head in range(H):
                    _softmax_backward(slope, attention[head], out=tile[head])
                if attn_bias is not None and bias_needs_grad:
                    part = grad_bias[window(grad_bias, samples, slice(0, H), rows, slice(K))]
                    part += tile.transpose(0, 1).sum_to_size(part.shape) / H
                grad_q = shaped(grad_query_buffer, H, S, R, D)
                torch.bmm(_flat(tile), _flat(k[:, :, :K]), out=_flat(grad_q))
                torch.mul(grad_q.permute(1, 2, 0, 3), scale / H, out=grad_query[samples, rows])
                _flat(grad_k)[:, :K].baddbmm_(_flat(tile).mT, _flat(q[:, :, rows]), alpha=1 / H)
            grad_key[samples] = grad_k.permute(1, 2, 0, 3)
    return loss, grad_query, grad_key, grad_bias


def _flat(heads_first: torch.Tensor) -> torch.Tensor:
    return heads_first.flatten(0, 1)


def _softmax_backward(slope: torch.Tensor, attention: torch.Tensor, out: torch.Tensor) -> None:
    torch.ops.aten._softmax_backward_data.out(slope, attention, -1, slope.dtype, grad_input=out)


@_loss_and_gradients.register_fake
def _(
    query: torch.Tensor,
    key: torch.Tensor,
    attn_bias: torch.Tensor | None,
    keys_seen: torch.Tensor | None,
    uniform_mean: torch.Tensor | None,
    tau: float,
    scale: float,
    is_causal: bool,
    needs_grad: bool,
    bias_needs_grad: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    (B, H, N, D), M = query.shape, key.shape[2]
    new = partial(query.new_empty, dtype=Layer(query, key, attn_bias, scale, is_causal).dtype)
    grad_query, grad_key = (new((B, n, H, D) if needs_grad else 0) for n in (N, M))
    return (
        new(()),
        grad_query,
        grad_key,
        new(attn_bias.shape if attn_bias is not None and bias_needs_grad else 0),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    query, key, attn_bias, *_ = inputs
    ctx.save_for_backward(*output[1:])
    ctx.dtypes = [query.dtype, key.dtype, None if attn_bias is None else attn_bias.dtype]


def _differentiate(ctx: Any, upstream: torch.Tensor, *_: object) -> tuple[torch.Tensor | None, ...]:
    scaled = _scale(upstream, *ctx.saved_tensors)
    grads = (scaled[0].transpose(1, 2), scaled[1].transpose(1, 2), scaled[2])
    casted = (
        grad.to(dtype) if need else None
        for grad, dtype, need in zip(grads, ctx.dtypes, ctx.needs_input_grad, strict=False)
    )
    return *casted, *(None for _ in range(7))


@torch.library.custom_op("tapadl::diversification_single_pass_backward", mutates_args=())
def _scale(
    upstream: torch.Tensor, grad_query: torch.Tensor, grad_key: torch.Tensor, grad_bias: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """An operator of its own, so that a second derivative is refused and not silently taken for zero."""
    return upstream * grad_query, upstream * grad_key, upstream * grad_bias


@_scale.register_fake
def _(
    upstream: torch.Tensor, grad_query: torch.Tensor, grad_key: torch.Tensor, grad_bias: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    grads = (grad_query, grad_key, grad_bias)
    return tuple(grad.new_empty(grad.shape) for grad in grads)  # type: ignore[return-value]


def _refuse_second_derivative(ctx: Any, *_: object) -> NoReturn:
    raise RuntimeError(
        'expected one backward through the single-pass diversification loss, got two; use impl="reference"'
    )


_loss_and_gradients.register_autograd(_differentiate, setup_context=_setup_context)
_scale.register_autograd(_refuse_second_derivative)
