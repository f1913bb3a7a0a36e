"""Token-aware average pooling as the paper defines it: the readable form and the oracle of the others."""

import torch
import torch.nn.functional as F

from tapadl.tokens import PatchGrid


def pool_branch(patch_map: torch.Tensor, dilation: int, causal: bool = False) -> torch.Tensor:
    """The map (B, C, *size) averaged over 3 places a side, `dilation` apart; dilation 0 is the identity.

    Zeros stand outside the map and count: the divisor is 9 on an image and 3 on a sequence, everywhere. The
    middle one of the places is the token's own; of a causal sequence the last.
    """
    if dilation == 0:
        return patch_map
    size = patch_map.shape[2:]
    padding = (2 * dilation, 0) if causal else (dilation, dilation)
    mean = F.pad(patch_map, padding * len(size))
    for axis, side in enumerate(size, start=2):
        mean = torch.stack([mean.narrow(axis, step * dilation, side) for step in range(3)]).mean(0)
    return mean


def token_aware_pooling(
    tokens: torch.Tensor, branch_weights: torch.Tensor, grid: PatchGrid, causal: bool = False
) -> torch.Tensor:
    """See `tapadl.token_aware_pooling`; arguments are taken as checked there."""
    prefix, patches = grid.split(tokens)
    dtype = torch.promote_types(tokens.dtype, branch_weights.dtype)
    patch_map = grid.to_map(patches).to(torch.promote_types(dtype, torch.float32))
    pooled = torch.zeros_like(patch_map)
    for dilation in range(branch_weights.shape[1]):
        pooled = pooled + branch_weights[:, dilation, None] * pool_branch(patch_map, dilation, causal)
    return grid.join(prefix, grid.from_map(pooled).to(tokens.dtype))
