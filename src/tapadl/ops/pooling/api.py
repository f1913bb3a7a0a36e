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
    grid_size: tuple[int, ...],
    num_prefix_tokens: int = 0,
    causal: bool = False,
    padding_mask: torch.Tensor | None = None,
    impl: PoolingImpl = "auto",
) -> torch.Tensor:
    """Patch tokens mixed with their neighbourhood, each with its own weights of the branches.

    `out[b, :, r, c] = sum over d of branch_weights[b, d, r, c] * P_d(x)[b, :, r, c]`, where `x` is the map
    of patch tokens, `P_0` the identity and `P_d` the mean over the 3x3 neighbours `d` patches apart, with
    zeros outside the map and the divisor 9 everywhere. On a sequence, `grid_size=(length,)`, `P_d` is the
    mean over the places i - d, i and i + d with the divisor 3; over i - 2d, i - d and i where `causal`.
    Prefix tokens pass through untouched. Sums are accumulated in at least float32, inside autocast too.

    Args:
        tokens: Prefix and patch tokens (B, N, C), floating; N = num_prefix_tokens + rows * cols.
        branch_weights: Weight of each branch at each patch (B, K, rows, cols), floating, K at least 1; of a
            sequence (B, K, length).
        grid_size: (rows, cols) of the patch grid, or the (length,) of a sequence.
        num_prefix_tokens: Class, distillation and register tokens in front of the patches.
        causal: Whether a token may take in only itself and earlier ones; for sequences.
        padding_mask: (B, N) bool, True where a token is padding, as in `torch.nn.TransformerEncoder`. To the
            others padding is what lies outside the map, zeros that count; it passes through itself.
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
    grid = checked_grid(tokens, grid_size, num_prefix_tokens, padding_mask)
    _check_branch_weights(branch_weights, tokens, grid)
    if causal and grid.ndim != 1:
        raise ValueError(f"expected grid_size=(length,) with causal=True, got {tuple(grid_size)}")
    if impl not in get_args(PoolingImpl):
        raise ValueError(f"expected impl to be one of {', '.join(get_args(PoolingImpl))}, got {impl!r}")
    if impl == "auto":
        impl = "reference" if _wants_plain_operations(tokens, branch_weights) else "separable"
    with without_autocast(tokens.device):
        if padding_mask is None:
            return _IMPLEMENTATIONS[impl](tokens, branch_weights, grid, causal)
        padding = padding_mask[..., None]
        pooled = _IMPLEMENTATIONS[impl](tokens.masked_fill(padding, 0), branch_weights, grid, causal)
        return torch.where(padding, tokens, pooled)


_IMPLEMENTATIONS: dict[str, Callable[[torch.Tensor, torch.Tensor, PatchGrid, bool], torch.Tensor]] = {
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


def checked_grid(
    tokens: torch.Tensor,
    grid_size: tuple[int, ...],
    num_prefix_tokens: int,
    padding_mask: torch.Tensor | None = None,
) -> PatchGrid:
    """The grid behind floating tokens (B, N, C), or a ValueError that says why there is none."""
    if not isinstance(grid_size, (tuple, list)) or len(grid_size) not in (1, 2):
        raise ValueError(f"expected grid_size=(rows, cols) or (length,), got {grid_size!r}")
    if not all(is_integer(side) for side in grid_size):
        raise ValueError(f"expected grid_size=(rows, cols) or (length,) of integers, got {grid_size!r}")
    if not is_integer(num_prefix_tokens):
        raise ValueError(f"expected num_prefix_tokens to be an integer, got {num_prefix_tokens!r}")
    grid = PatchGrid(tuple(grid_size), num_prefix_tokens)
    grid.check(tokens)
    _check_floating("tokens", tokens)
    if padding_mask is not None:
        _check_padding_mask(padding_mask, tokens)
    return grid


def _check_padding_mask(padding_mask: torch.Tensor, tokens: torch.Tensor) -> None:
    if padding_mask.dtype != torch.bool:
        raise ValueError(
            f"expected padding_mask of dtype torch.bool, True at padding, got {padding_mask.dtype}; from an "
            f"attention_mask of transformers it is attention_mask == 0"
        )
    if padding_mask.shape != tokens.shape[:2]:
        raise ValueError(
            f"expected padding_mask of shape {tuple(tokens.shape[:2])} like the tokens, prefix included, got "
            f"{tuple(padding_mask.shape)}"
        )
    if padding_mask.device != tokens.device:
        raise ValueError(
            f"expected padding_mask on {tokens.device} like the tokens, got {padding_mask.device}"
        )


def _check_branch_weights(branch_weights: torch.Tensor, tokens: torch.Tensor, grid: PatchGrid) -> None:
    batch, shape = tokens.shape[0], branch_weights.shape
    if len(shape) != 2 + grid.ndim or shape[0] != batch or shape[1] < 1 or shape[2:] != grid.size:
        raise ValueError(
            f"expected branch_weights of shape ({batch}, K, {', '.join(map(str, grid.size))}) with K of at "
            f"least 1, got {tuple(shape)}"
        )
    _check_floating("branch_weights", branch_weights)
    if branch_weights.device != tokens.device:
        raise ValueError(
            f"expected branch_weights on {tokens.device} like the tokens, got {branch_weights.device}"
        )


def _check_floating(name: str, tensor: torch.Tensor) -> None:
    if not tensor.is_floating_point():
        raise ValueError(f"expected {name} of a floating dtype, got {tensor.dtype}; convert them first")
