"""Token-aware average pooling as one sparse mixing of tokens: the fast form for any device.

The pooling is separable, S x 1: every channel is mixed by the same sparse matrix S over the patches, and the
branches fold into S before any channel is read. With n neighbours at each distance (8 on an image, 2 on a
sequence), row p of S holds `w_0 + sum over d of w_d / (n + 1)` for the patch itself and `w_d / (n + 1)` for
each patch at distance d, with the weights w of patch p; no branch is ever built. A bag of embeddings does the
rest in one pass over the tokens: a row and a factor per neighbour. Prefix tokens go along as bags that nobody
reads, because leaving them out would cost a copy of all others.

Shapes: B batch, N tokens, P patches, K branches, J = n (K - 1) + 1 neighbours (the patch itself first),
C channels.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from tapadl.ops.transforms import has_hidden_batch, is_transformed
from tapadl.tokens import PatchGrid


def token_aware_pooling(
    tokens: torch.Tensor, branch_weights: torch.Tensor, grid: PatchGrid, causal: bool = False
) -> torch.Tensor:
    """See `tapadl.token_aware_pooling`; arguments are taken as checked there."""
    neighbours = _neighbours(grid, branch_weights.shape[1], causal, tokens.device)
    pooled: torch.Tensor = _TokenMixing.apply(tokens, branch_weights, grid, causal, *neighbours)
    return pooled


class _TokenMixing(torch.autograd.Function):
    """y = S x. With the gradient g of y: dx = S^T g, and dS_pq = <g_p, x_q>, summed up into each branch."""

    @staticmethod
    def forward(
        tokens: torch.Tensor,
        branch_weights: torch.Tensor,
        grid: PatchGrid,
        causal: bool,
        *neighbours: torch.Tensor,
    ) -> torch.Tensor:
        table = _Neighbours(*neighbours)
        factors = _factors(branch_weights, tokens, table, grid)
        return _mix(tokens, factors, _row_index(tokens, table), grid)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        tokens, branch_weights, ctx.grid, ctx.causal, *neighbours = inputs
        ctx.save_for_backward(tokens, branch_weights, *neighbours)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        tokens, branch_weights, *table = ctx.saved_tensors
        neighbours = _Neighbours(*table)
        no_gradient = (None,) * (2 + len(table))
        grad_tokens = grad_weights = None

        def pool(tokens: torch.Tensor, branch_weights: torch.Tensor) -> torch.Tensor:
            return _mix_in_plain_operations(tokens, branch_weights, neighbours, ctx.grid)

        eager = not torch.compiler.is_compiling()
        if torch.is_grad_enabled() or (eager and is_transformed(grad)):
            # Somebody will transform or differentiate this gradient, so operations are taken that allow it.
            return *torch.func.vjp(pool, tokens, branch_weights)[1](grad), *no_gradient
        if eager and has_hidden_batch(grad):
            # Neither bags nor torch.func know this batch; the gradients torch has for plain operations do.
            with torch.enable_grad():
                inputs = tokens.detach().requires_grad_(), branch_weights.detach().requires_grad_()
                return *torch.autograd.grad(pool(*inputs), inputs, grad), *no_gradient
        if ctx.needs_input_grad[0]:
            # Being a neighbour is mutual on an image, so column p of S has its entries where row p has them,
            # made of the neighbour's weights. In a causal sequence those who look at a token come after it.
            onlookers = neighbours
            if ctx.causal:
                onlookers = _neighbours(ctx.grid, branch_weights.shape[1], True, tokens.device, step=-1)
            factors = _factors(branch_weights, tokens, onlookers, ctx.grid, weigh=onlookers.token)
            grad_tokens = _mix(grad, factors, _row_index(grad, onlookers), ctx.grid).to(tokens.dtype)
        if ctx.needs_input_grad[1]:
            dots = _dots(grad, tokens, _row_index(tokens, neighbours))
            grad_weights = _sum_into_weights(dots, branch_weights, neighbours, ctx.grid)
        return grad_tokens, grad_weights, *no_gradient


class _Neighbours(NamedTuple):
    token: torch.Tensor  # (N, J) int32, which token; the token itself where the neighbour is off the map
    inside: torch.Tensor  # (N, J) bool, whether the neighbour is on the map; False for prefix tokens
    branch: torch.Tensor  # (J,) int32, the branch it belongs to, that is its distance


def _neighbours(
    grid: PatchGrid, num_branches: int, causal: bool, device: torch.device, step: int = 1
) -> _Neighbours:
    # Computed on the device: a list copied there would make the host wait for it in every forward.
    num_neighbours = 3**grid.ndim - 1
    middle, own_cell = (2, num_neighbours) if causal else (1, num_neighbours // 2)
    neighbour = torch.arange(num_neighbours * (num_branches - 1) + 1, dtype=torch.int32, device=device)
    branch = (neighbour + (num_neighbours - 1)) // num_neighbours
    cell = (neighbour - 1) % num_neighbours
    cell = cell + (cell >= own_cell)  # of the 3 or 3 x 3 cells row by row, all but the token's own
    own = torch.arange(grid.num_tokens, dtype=torch.int32, device=device)[:, None]
    patch = own - grid.num_prefix_tokens
    inside, target, stride = patch >= 0, own, 1
    for axis, side in enumerate(reversed(grid.size)):
        shift = step * branch * (cell // 3**axis % 3 - middle)
        place = patch // stride % side + shift
        inside = inside & (place >= 0) & (place < side)
        target, stride = target + stride * shift, stride * side
    return _Neighbours(torch.where(inside, target, own), inside, branch)


def _factors(
    branch_weights: torch.Tensor,
    tokens: torch.Tensor,
    neighbours: _Neighbours,
    grid: PatchGrid,
    weigh: torch.Tensor | None = None,
) -> torch.Tensor:
    """Factors (B, N, J) of the neighbours, made of each token's own weights or those of tokens `weigh`."""
    _, inside, branch = neighbours
    weights = branch_weights.flatten(2).to(_accumulation_dtype(branch_weights, tokens))
    ring = weights[:, 1:] / 3**grid.ndim
    own = weights[:, :1] + ring.sum(1, keepdim=True)
    off_the_map = weights.new_zeros(weights.shape[0], 1)
    table = torch.cat((own.flatten(1), ring.flatten(1), off_the_map), dim=1)
    if weigh is None:
        weigh = torch.arange(grid.num_tokens, device=tokens.device)[:, None]
    place = branch * grid.num_patches + weigh - grid.num_prefix_tokens
    place = torch.where(inside, place, table.shape[1] - 1)
    return table.index_select(1, place.flatten()).reshape(-1, *inside.shape)


def _sum_into_weights(
    dots: torch.Tensor, branch_weights: torch.Tensor, neighbours: _Neighbours, grid: PatchGrid
) -> torch.Tensor:
    """Gradient (B, K, *size) of the weights from that of their factors (B * N * J,)."""
    of_patches = grid.split(dots.unflatten(0, (-1, *neighbours.inside.shape)) * neighbours.inside)[1]
    own, ring = of_patches[..., :1], of_patches[..., 1:].unflatten(2, (-1, 3**grid.ndim - 1)).sum(3)
    by_branch = torch.cat((own, (own + ring) / 3**grid.ndim), dim=2)
    return by_branch.transpose(1, 2).reshape(branch_weights.shape).to(branch_weights.dtype)


def _row_index(tokens: torch.Tensor, neighbours: _Neighbours) -> torch.Tensor:
    """Which of all the tokens of the batch (B * N, C) are the neighbours of each (B * N, J)."""
    batch, num_tokens, _ = tokens.shape
    first = torch.arange(batch, dtype=torch.int32, device=tokens.device)[:, None, None] * num_tokens
    return (first + neighbours.token).flatten(0, 1)


def _mix(tokens: torch.Tensor, factors: torch.Tensor, index: torch.Tensor, grid: PatchGrid) -> torch.Tensor:
    """Each patch among the tokens (B, N, C) as the sum of its neighbours times their factors (B, N, J)."""
    rows = tokens.to(factors.dtype).flatten(0, 1)
    mixed: torch.Tensor = F.embedding_bag(index, rows, mode="sum", per_sample_weights=factors.flatten(0, 1))
    # As autograd reshapes the result of a product: with a view, it could not add other gradients in place.
    mixed = torch.ops.aten._unsafe_view(mixed.to(tokens.dtype), tokens.shape)
    grid.split(mixed)[0].copy_(grid.split(tokens)[0])
    return mixed


def _mix_in_plain_operations(
    tokens: torch.Tensor, branch_weights: torch.Tensor, neighbours: _Neighbours, grid: PatchGrid
) -> torch.Tensor:
    """The pooling again, J maps in memory."""
    factors = _factors(branch_weights, tokens, neighbours, grid)
    mixed = (factors[..., None] * tokens.to(factors.dtype)[:, neighbours.token]).sum(2).to(tokens.dtype)
    return grid.join(grid.split(tokens)[0], grid.split(mixed)[1])


def _dots(grad: torch.Tensor, tokens: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Products <g_p, x_q> (B * N * J,) of each token's gradient with its neighbours' tokens."""
    dtype = _accumulation_dtype(grad, tokens)
    bag = torch.arange(index.shape[0], dtype=index.dtype, device=index.device)[:, None]
    # What autograd calls for the factors of a bag; here, rows and index need not be kept until then.
    dots: torch.Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        grad.to(dtype).flatten(0, 1),
        tokens.to(dtype).flatten(0, 1),
        index.flatten(),
        (bag * index.shape[1]).flatten(),
        bag.expand_as(index).reshape(-1).contiguous(),
        0,  # mode: sum
    )
    return dots


def _accumulation_dtype(first: torch.Tensor, second: torch.Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(first.dtype, second.dtype), torch.float32)
