"""Token-aware average pooling as one sparse mixing of tokens: the fast form for any device.

The pooling is separable, S x 1: every channel is mixed by the same sparse matrix S over the patches, and the
branches fold into S before any channel is read. Row p of S holds `w_0 + sum over d of w_d / 9` for the patch
itself and `w_d / 9` for each of the eight patches at distance d, with the weights w of patch p; no branch is
ever built. A bag of embeddings does the rest in one pass over the tokens: a row and a factor per neighbour.

Shapes: B batch, P patches, K branches, J = 8 (K - 1) + 1 neighbours (the patch itself first), C channels.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from tapadl.ops.transforms import has_hidden_batch, is_transformed
from tapadl.tokens import PatchGrid


def token_aware_pooling(tokens: torch.Tensor, branch_weights: torch.Tensor, grid: PatchGrid) -> torch.Tensor:
    """See `tapadl.token_aware_pooling`; arguments are taken as checked there."""
    neighbours = _neighbours(grid, branch_weights.shape[1], tokens.device)
    pooled: torch.Tensor = _TokenMixing.apply(tokens, branch_weights, grid, *neighbours)
    return pooled


class _TokenMixing(torch.autograd.Function):
    """y = S x. With the gradient g of y: dx = S^T g, and dS_pq = <g_p, x_q>, summed up into each branch."""

    @staticmethod
    def forward(
        tokens: torch.Tensor, branch_weights: torch.Tensor, grid: PatchGrid, *neighbours: torch.Tensor
    ) -> torch.Tensor:
        table = _Neighbours(*neighbours)
        factors = _own_factors(branch_weights, tokens, table)
        return _mix(tokens, factors, _row_index(tokens, table.patch, grid), grid)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        tokens, branch_weights, ctx.grid, *neighbours = inputs
        ctx.save_for_backward(tokens, branch_weights, *neighbours)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        tokens, branch_weights, *table = ctx.saved_tensors
        neighbours = _Neighbours(*table)
        grad_tokens = grad_weights = None

        def pool(tokens: torch.Tensor, branch_weights: torch.Tensor) -> torch.Tensor:
            return _mix_in_plain_operations(tokens, branch_weights, neighbours, ctx.grid)

        eager = not torch.compiler.is_compiling()
        if torch.is_grad_enabled() or (eager and is_transformed(grad)):
            # Somebody will transform or differentiate this gradient, so operations are taken that allow it.
            grad_tokens, grad_weights = torch.func.vjp(pool, tokens, branch_weights)[1](grad)
            return grad_tokens, grad_weights, None, None, None, None
        if eager and has_hidden_batch(grad):
            # Neither bags nor torch.func know this batch; the gradients torch has for plain operations do.
            with torch.enable_grad():
                inputs = tokens.detach().requires_grad_(), branch_weights.detach().requires_grad_()
                return *torch.autograd.grad(pool(*inputs), inputs, grad), None, None, None, None
        index = _row_index(tokens, neighbours.patch, ctx.grid)
        if ctx.needs_input_grad[0]:
            # Being a neighbour is mutual, so column p of S has its entries where row p has them; they are
            # made of the neighbour's weights.
            factors = _factors(branch_weights, tokens, neighbours.patch, neighbours)
            grad_tokens = _mix(grad, factors, index, ctx.grid).to(tokens.dtype)
        if ctx.needs_input_grad[1]:
            dots = _dots(grad, tokens, index, ctx.grid)
            grad_weights = _sum_into_weights(dots, branch_weights, neighbours)
        return grad_tokens, grad_weights, None, None, None, None


class _Neighbours(NamedTuple):
    patch: torch.Tensor  # (P, J) int32, which patch; the patch itself where the neighbour is off the map
    inside: torch.Tensor  # (P, J) bool, whether the neighbour is on the map
    branch: torch.Tensor  # (J,) int64, the branch it belongs to, that is its distance


def _neighbours(grid: PatchGrid, num_branches: int, device: torch.device) -> _Neighbours:
    # Computed on the device: a list copied there would make the host wait for it in every forward.
    neighbour = torch.arange(8 * (num_branches - 1) + 1, device=device)
    branch = (neighbour + 7) // 8
    eighth = (neighbour - 1) % 8
    cell = eighth + (eighth >= 4)  # of the 3 x 3 cells row by row, all but the middle
    row_step, col_step = branch * (cell // 3 - 1), branch * (cell % 3 - 1)
    row = torch.arange(grid.rows, device=device)[:, None, None] + row_step
    col = torch.arange(grid.cols, device=device)[:, None] + col_step
    inside = ((row >= 0) & (row < grid.rows)) & ((col >= 0) & (col < grid.cols))
    own = torch.arange(grid.num_patches, dtype=torch.int32, device=device).reshape(grid.rows, grid.cols, 1)
    patch = torch.where(inside, (row * grid.cols).int() + col.int(), own)
    return _Neighbours(patch.flatten(0, 1), inside.flatten(0, 1), branch)


def _own_factors(branch_weights: torch.Tensor, tokens: torch.Tensor, neighbours: _Neighbours) -> torch.Tensor:
    """Factors (B, P, J) by which a patch takes in its neighbours: rows of S."""
    own = torch.arange(len(neighbours.patch), device=tokens.device)[:, None]
    return _factors(branch_weights, tokens, own, neighbours)


def _factors(
    branch_weights: torch.Tensor, tokens: torch.Tensor, weighing_patch: torch.Tensor, neighbours: _Neighbours
) -> torch.Tensor:
    """Factors (B, P, J) of the neighbours, made of the weights of `weighing_patch` (P, J) or (P, 1)."""
    _, inside, branch = neighbours
    weights = branch_weights.flatten(2).to(_accumulation_dtype(branch_weights, tokens))
    ring = weights[:, 1:] / 9
    own = weights[:, :1] + ring.sum(1, keepdim=True)
    off_the_map = weights.new_zeros(weights.shape[0], 1)
    table = torch.cat((own.flatten(1), ring.flatten(1), off_the_map), dim=1)
    place = torch.where(inside, branch * inside.shape[0] + weighing_patch, table.shape[1] - 1)
    batch = table.shape[0]
    return table.gather(1, place.reshape(1, -1).expand(batch, -1)).reshape(batch, *inside.shape)


def _sum_into_weights(
    dots: torch.Tensor, branch_weights: torch.Tensor, neighbours: _Neighbours
) -> torch.Tensor:
    """Gradient (B, K, rows, cols) of the weights from that of their factors (B * P * J,)."""
    inside = neighbours.inside
    on_the_map = dots.reshape(branch_weights.shape[0], *inside.shape) * inside
    own, ring = on_the_map[..., :1], on_the_map[..., 1:].unflatten(2, (-1, 8)).sum(3)
    by_branch = torch.cat((own, (own + ring) / 9), dim=2)
    return by_branch.transpose(1, 2).reshape(branch_weights.shape).to(branch_weights.dtype)


def _row_index(tokens: torch.Tensor, patch: torch.Tensor, grid: PatchGrid) -> torch.Tensor:
    """Which of all the tokens of the batch (B * N, C) are the neighbours of each patch (B * P, J)."""
    batch, num_tokens, _ = tokens.shape
    image = torch.arange(batch, dtype=patch.dtype, device=patch.device)[:, None, None]
    return (image * num_tokens + grid.num_prefix_tokens + patch).flatten(0, 1)


def _mix(tokens: torch.Tensor, factors: torch.Tensor, index: torch.Tensor, grid: PatchGrid) -> torch.Tensor:
    """Each patch among the tokens (B, N, C) as the sum of its neighbours times their factors (B, P, J)."""
    rows = tokens.to(factors.dtype).flatten(0, 1)
    mixed = F.embedding_bag(index, rows, mode="sum", per_sample_weights=factors.flatten(0, 1))
    prefix, _ = grid.split(tokens)
    return grid.join(prefix, mixed.to(tokens.dtype).reshape(*factors.shape[:2], tokens.shape[2]))


def _mix_in_plain_operations(
    tokens: torch.Tensor, branch_weights: torch.Tensor, neighbours: _Neighbours, grid: PatchGrid
) -> torch.Tensor:
    """The pooling again, J maps in memory."""
    factors = _own_factors(branch_weights, tokens, neighbours)
    prefix, patches = grid.split(tokens)
    mixed = (factors[..., None] * patches.to(factors.dtype)[:, neighbours.patch]).sum(2)
    return grid.join(prefix, mixed.to(tokens.dtype))


def _dots(grad: torch.Tensor, tokens: torch.Tensor, index: torch.Tensor, grid: PatchGrid) -> torch.Tensor:
    """Products <g_p, x_q> (B * P * J,) of each patch's gradient with its neighbours' tokens."""
    dtype = _accumulation_dtype(grad, tokens)
    _, patch_grad = grid.split(grad)
    bag = torch.arange(index.shape[0], dtype=index.dtype, device=index.device)[:, None]
    # What autograd calls for the factors of a bag; here, rows and index need not be kept until then.
    dots: torch.Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        patch_grad.to(dtype).flatten(0, 1),
        tokens.to(dtype).flatten(0, 1),
        index.flatten(),
        (bag * index.shape[1]).flatten(),
        bag.expand_as(index).reshape(-1).contiguous(),
        0,  # mode: sum
    )
    return dots


def _accumulation_dtype(first: torch.Tensor, second: torch.Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(first.dtype, second.dtype), torch.float32)
