"""The public call of token-aware average pooling: it checks the arguments and picks an implementation."""

from collections.abc import Callable
from typing import Literal, get_args

import torch

from tapadl.ops.numbers import is_integer
from tapadl.ops.pooling import reference, separable
from tapadl.ops.precision import without_autocast
from tapadl.ops.transforms import is_transformed
from tapadl.tokens import PatchGrid

PoolingImpl = Literal["auto", "reference", "separable"]


def token_aware_pooling(
    tokens: torch.Tensor,
    branch_weights: torch.Tensor,
    *,
    grid_size: tuple[int, int],
    num_prefix_tokens: int = 0,
    impl: PoolingImpl = "auto",
) -> torch.Tensor:
    """Patch tokens mixed with their neighbourhood, each with its own weights of the branches.

    `out[b, :, r, c] = sum over d of branch_weights[b, d, r, c] * P_d(x)[b, :, r, c]`, where `x` is the map
    of patch tokens, `P_0` the identity and `P_d` the mean over the 3x3 neighbours `d` patches apart, with
    zeros outside the map and the divisor 9 everywhere. Prefix tokens pass through untouched. Sums are
    accumulated in at least float32, inside autocast too.

    Args:
        tokens: Prefix and patch tokens (B, N, C), floating; N = num_prefix_tokens + rows * cols.
        branch_weights: Weight of each branch at each patch (B, K, rows, cols), floating, K at least 1.
        grid_size: Rows and columns of the patch grid.
        num_prefix_tokens: Class, distillation and register tokens in front of the patches.
        impl: "reference" is the definition in plain operations; "separable" is the fast form, one pass over
            the tokens, with its own backward; "auto" takes the fast form, or the plain operations where a
            compiler, exporter, tracer, `torch.func` or forward-mode differentiation looks on. Gradients of
            gradients are right in both; they cost "separable" as much memory as 8 (K - 1) + 1 copies of the
            tokens, so take "reference" there.

    Returns:
        The pooled tokens (B, N, C), in the dtype of `tokens`.

    Raises:
        ValueError: If shapes, dtypes, devices or the grid do not fit together, or `impl` is unknown.

    Source:
        Guo, Stutz, Schiele, "Robustifying Token Attention for Vision Transformers", ICCV 2023.

    Example:
        >>> tokens = torch.ones(1, 9, 2)
        >>> branch_weights = torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1).expand(1, 2, 3, 3)
        >>> pooled = token_aware_pooling(tokens, branch_weights, grid_size=(3, 3))
        >>> (9 * pooled[0, :, 0]).reshape(3, 3)
        tensor([[4., 6., 4.],
                [6., 9., 6.],
                [4., 6., 4.]])
    """
    grid = checked_grid(tokens, grid_size, num_prefix_tokens)
    _check_branch_weights(branch_weights, tokens, grid)
    if impl not in get_args(PoolingImpl):
        raise ValueError(f"expected impl to be one of {', '.join(get_args(PoolingImpl))}, got {impl!r}")
    if impl == "auto":
        impl = "reference" if _wants_plain_operations(tokens, branch_weights) else "separable"
    with without_autocast(tokens.device):
        return _IMPLEMENTATIONS[impl](tokens, branch_weights, grid)


_IMPLEMENTATIONS: dict[str, Callable[[torch.Tensor, torch.Tensor, PatchGrid], torch.Tensor]] = {
    "reference": reference.token_aware_pooling,
    "separable": separable.token_aware_pooling,
}


def _wants_plain_operations(*tensors: torch.Tensor) -> bool:
    # A compiler fuses the shifted reads of the plain form by itself and leaves bags alone; a tracer would
    # keep the table of one grid; transforms of torch.func need operations they know.
    if torch.compiler.is_compiling():
        return True
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return tracing or is_transformed(*tensors)


def checked_grid(tokens: torch.Tensor, grid_size: tuple[int, int], num_prefix_tokens: int) -> PatchGrid:
    """The grid behind floating tokens (B, N, C), or a ValueError that says why there is none."""
    if not isinstance(grid_size, (tuple, list)) or len(grid_size) != 2:
        raise ValueError(f"expected grid_size=(rows, cols), got {grid_size!r}")
    if not (is_integer(grid_size[0]) and is_integer(grid_size[1])):
        raise ValueError(f"expected grid_size=(rows, cols) of two integers, got {grid_size!r}")
    if not is_integer(num_prefix_tokens):
        raise ValueError(f"expected num_prefix_tokens to be an integer, got {num_prefix_tokens!r}")
    grid = PatchGrid(*grid_size, num_prefix_tokens)
    grid.check(tokens)
    _check_floating("tokens", tokens)
    return grid


def _check_branch_weights(branch_weights: torch.Tensor, tokens: torch.Tensor, grid: PatchGrid) -> None:
    batch, shape = tokens.shape[0], branch_weights.shape
    if len(shape) != 4 or shape[0] != batch or shape[1] < 1 or shape[2:] != (grid.rows, grid.cols):
        raise ValueError(
            f"expected branch_weights of shape ({batch}, K, {grid.rows}, {grid.cols}) with K of at least 1, "
            f"got {tuple(shape)}"
        )
    _check_floating("branch_weights", branch_weights)
    if branch_weights.device != tokens.device:
        raise ValueError(
            f"expected branch_weights on {tokens.device} like the tokens, got {branch_weights.device}"
        )


def _check_floating(name: str, tensor: torch.Tensor) -> None:
    if not tensor.is_floating_point():
        raise ValueError(f"expected {name} of a floating dtype, got {tensor.dtype}; convert them first")
