"""Token-aware average pooling as the paper defines it: the readable form and the oracle of the others."""

import torch
import torch.nn.functional as F

from tapadl.tokens import PatchGrid


def pool_branch(patch_map: torch.Tensor, dilation: int) -> torch.Tensor:
    """The map (B, C, rows, cols) averaged over 3x3 neighbours `dilation` apart; dilation 0 is the identity.

    Zeros stand outside the map and count: the divisor is 9 everywhere.
    """
    if dilation == 0:
        return patch_map
    rows, cols = patch_map.shape[-2:]
    padded = F.pad(patch_map, (dilation,) * 4)
    steps = (0, dilation, 2 * dilation)
    return torch.stack([padded[..., r : r + rows, c : c + cols] for r in steps for c in steps]).sum(0) / 9


def token_aware_pooling(tokens: torch.Tensor, branch_weights: torch.Tensor, grid: PatchGrid) -> torch.Tensor:
    """See `tapadl.token_aware_pooling`; arguments are taken as checked there."""
    prefix, patches = grid.split(tokens)
    dtype = torch.promote_types(tokens.dtype, branch_weights.dtype)
    patch_map = grid.to_map(patches).to(torch.promote_types(dtype, torch.float32))
    pooled = torch.zeros_like(patch_map)
    for dilation in range(branch_weights.shape[1]):
        pooled = pooled + branch_weights[:, dilation, None] * pool_branch(patch_map, dilation)
    return grid.join(prefix, grid.from_map(pooled).to(tokens.dtype))
