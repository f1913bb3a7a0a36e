"""Token-aware average pooling as one sparse mixing of tokens: the fast form for any device.

The pooling is separable, S x 1: every channel is mixed by the same sparse matrix S over the patches. The
branches fold into S before any channel is read. Row p of S holds `w_0 + sum over d of w_d / 9` for the patch
itself and `w_d / 9` for the eight patches at distance d, so no branch is ever built, and a whole output token
is summed up while it is in registers. A bag of embeddings is this operation: an index and a factor per
neighbour, one pass over the tokens.

Shapes: B batch, P patches, K branches, J = 8 (K - 1) + 1 neighbours (the patch itself first), C channels.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from tapadl.tokens import PatchGrid


def token_aware_pooling(tokens: torch.Tensor, branch_weights: torch.Tensor, grid: PatchGrid) -> torch.Tensor:
    """See `tapadl.token_aware_pooling`; arguments are taken as checked there."""
    pooled: torch.Tensor = _TokenMixing.apply(tokens, branch_weights, grid)
    return pooled


class _TokenMixing(torch.autograd.Function):
    """y = S x. With the gradient g of y: dx = S^T g, and dS_pq = <g_p, x_q>, summed up into each branch."""

    @staticmethod
    def forward(tokens: torch.Tensor, branch_weights: torch.Tensor, grid: PatchGrid) -> torch.Tensor:
        neighbours = _neighbours(grid, branch_weights)
        factors = _factors_by_branch(branch_weights, tokens)[:, :, neighbours.branch] * neighbours.inside
        return _mix(tokens, factors, neighbours, grid)

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[torch.Tensor, torch.Tensor, PatchGrid], output: torch.Tensor
    ) -> None:
        tokens, branch_weights, ctx.grid = inputs
        ctx.save_for_backward(tokens, branch_weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        tokens, branch_weights = ctx.saved_tensors
        neighbours = _neighbours(ctx.grid, branch_weights)
        grad_tokens = grad_weights = None
        if ctx.needs_input_grad[0]:
            # The neighbourhood is symmetric: column p of S has its entries where row p has them, and their
            # factors stand with the neighbour.
            by_branch = _factors_by_branch(branch_weights, tokens)
            factors = by_branch[:, neighbours.patch, neighbours.branch] * neighbours.inside
            grad_tokens = _mix(grad, factors, neighbours, ctx.grid).to(tokens.dtype)
        if ctx.needs_input_grad[1]:
            dots = _dots(grad, tokens, neighbours, ctx.grid) * neighbours.inside
            own, ring = dots[..., :1], dots[..., 1:].unflatten(2, (-1, 8)).sum(3)
            by_weight = torch.cat((own, (own + ring) / 9), dim=2)
            grad_weights = by_weight.transpose(1, 2).reshape(branch_weights.shape).to(branch_weights.dtype)
        return grad_tokens, grad_weights, None


class _Neighbours(NamedTuple):
    patch: torch.Tensor  # (P, J) which patch; the patch itself where the neighbour is outside the map
    inside: torch.Tensor  # (P, J) whether the neighbour is on the map
    branch: torch.Tensor  # (J,) the branch, that is the distance


def _neighbours(grid: PatchGrid, branch_weights: torch.Tensor) -> _Neighbours:
    num_branches, device = branch_weights.shape[1], branch_weights.device
    directions = [(r, c) for r in (-1, 0, 1) for c in (-1, 0, 1) if (r, c) != (0, 0)]
    offsets = [(0, 0, 0)] + [(d * r, d * c, d) for d in range(1, num_branches) for r, c in directions]
    row_offset, col_offset, branch = torch.tensor(offsets, device=device).unbind(1)
    row = torch.arange(grid.rows, device=device)[:, None, None]
    col = torch.arange(grid.cols, device=device)[:, None]
    row_inside = (row + row_offset >= 0) & (row + row_offset < grid.rows)
    col_inside = (col + col_offset >= 0) & (col + col_offset < grid.cols)
    inside = row_inside & col_inside
    patch = row * grid.cols + col + inside * (row_offset * grid.cols + col_offset)
    return _Neighbours(patch.flatten(0, 1), inside.flatten(0, 1), branch)


def _factors_by_branch(branch_weights: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Factors (B, P, K): of the patch itself, then of a neighbour at distance 1 .. K-1."""
    weights = branch_weights.flatten(2).transpose(1, 2).to(_accumulation_dtype(branch_weights, tokens))
    ring = weights[..., 1:] / 9
    return torch.cat((weights[..., :1] + ring.sum(2, keepdim=True), ring), dim=2)


def _mix(
    tokens: torch.Tensor, factors: torch.Tensor, neighbours: _Neighbours, grid: PatchGrid
) -> torch.Tensor:
    """Each patch token (B, N, C) as the sum of its neighbours times their factors (B, P, J)."""
    rows, index = _rows(tokens, factors.dtype, neighbours, grid)
    mixed = F.embedding_bag(index, rows, mode="sum", per_sample_weights=factors.flatten(0, 1))
    prefix, _ = grid.split(tokens)
    return grid.join(prefix, mixed.unflatten(0, factors.shape[:2]).to(tokens.dtype))


def _dots(grad: torch.Tensor, tokens: torch.Tensor, neighbours: _Neighbours, grid: PatchGrid) -> torch.Tensor:
    """Products <g_p, x_q> (B, P, J) of each patch's gradient with its neighbours' tokens."""
    batch, (num_patches, num_neighbours) = len(tokens), neighbours.patch.shape
    rows, index = _rows(tokens, _accumulation_dtype(grad, tokens), neighbours, grid)
    _, patch_grad = grid.split(grad)
    bag = torch.arange(batch * num_patches, dtype=index.dtype, device=index.device)
    # What autograd calls for the factors of a bag; calling it saves keeping index and rows from the forward.
    dots: torch.Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        patch_grad.to(rows.dtype).flatten(0, 1),
        rows,
        index.flatten(),
        bag * num_neighbours,
        bag.repeat_interleave(num_neighbours),
        0,  # mode: sum
    )
    return dots.reshape(batch, num_patches, num_neighbours)


def _rows(
    tokens: torch.Tensor, dtype: torch.dtype, neighbours: _Neighbours, grid: PatchGrid
) -> tuple[torch.Tensor, torch.Tensor]:
    """All tokens of the batch (B * N, C), and which of them are the neighbours of each patch (B * P, J)."""
    batch, num_tokens, _ = tokens.shape
    first = torch.arange(batch, device=tokens.device)[:, None, None] * num_tokens + grid.num_prefix_tokens
    return tokens.to(dtype).flatten(0, 1), (first + neighbours.patch).flatten(0, 1).int()


def _accumulation_dtype(first: torch.Tensor, second: torch.Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(first.dtype, second.dtype), torch.float32)
