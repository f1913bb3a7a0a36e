"""The dilation predictor of TAP: how far each token should look for its neighbours."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from tapadl.tokens import PatchGrid


class DilationPredictor(nn.Module):
    """Scores (B, K, *size) of the branches from tokens (B, N, C)."""

    def __init__(self, dim: int, num_branches: int, ndim: int = 2, causal: bool = False) -> None:
        super().__init__()
        conv, norm = (nn.Conv2d, nn.BatchNorm2d) if ndim == 2 else (nn.Conv1d, nn.BatchNorm1d)
        self.causal = causal
        self.proj = nn.Sequential(
            _TokenConv(dim, num_branches, ndim, causal),
            norm(num_branches),
            conv(num_branches, num_branches, kernel_size=3, padding=0 if causal else 1, bias=False),
        )

    def forward(
        self, tokens: torch.Tensor, grid: PatchGrid, padding_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Scores before temperature and softmax."""
        first, norm, last = self.proj
        if padding_mask is None:
            scores = norm(first(tokens, grid))
        else:
            padding = padding_mask[..., None]
            scores = first(tokens.masked_fill(padding, 0), grid)
            scores = _norm_without_padding(norm, scores, grid.to_map(grid.split(padding)[1]))
        scores = last(F.pad(scores, (2, 0)) if self.causal else scores)
        return cast(torch.Tensor, scores)


def _norm_without_padding(norm: nn.Module, scores: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
    """Batch norm of a map (B, K, *size) whose statistics leave padding (B, 1, *size) out; zeros there."""
    if not norm.training:
        return cast(torch.Tensor, norm(scores)).masked_fill(padding, 0)
    rows, valid = scores.movedim(1, -1), ~padding.squeeze(1)
    chosen = rows[valid]
    ones = [1] * (scores.ndim - 2)
    normed = torch.zeros_like(rows)
    normed[valid] = norm(chosen.reshape(*chosen.shape, *ones)).reshape(chosen.shape).to(rows.dtype)
    return normed.movedim(-1, 1)


class _TokenConv(nn.Module):
    """A convolution of many channels into few, three taps a side, from tokens (B, N, C) to a map.

    One matrix product gives 3 K or 9 K values per token, then shifted adds in at least float32 put them in
    place: convolutions round K up to a vector of channels and pay for the whole of it. The product takes the
    prefix tokens along, because leaving them out would cost a copy of all others. A compiler gets the plain
    convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, ndim: int, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, *[3] * ndim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Random weights, as torch.nn.Conv2d draws them."""
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, tokens: torch.Tensor, grid: PatchGrid) -> torch.Tensor:
        if torch.compiler.is_compiling():
            return self._convolve(grid.to_map(grid.split(tokens)[1]))
        # fold adds the value of the kernel's last corner where a convolution reads the first.
        taps = self.weight.flip(*range(2, self.weight.ndim)).flatten(2).transpose(1, 2).flatten(0, 1)
        values = F.linear(tokens, taps)
        wide = grid.split(values)[1].transpose(1, 2).to(torch.promote_types(values.dtype, torch.float32))
        return self._fold(wide, grid).to(values.dtype)

    def _convolve(self, patch_map: torch.Tensor) -> torch.Tensor:
        if self.weight.ndim == 4:
            return F.conv2d(patch_map, self.weight, padding=1)
        return F.conv1d(F.pad(patch_map, (2, 0) if self.causal else (1, 1)), self.weight)

    def _fold(self, values: torch.Tensor, grid: PatchGrid) -> torch.Tensor:
        if grid.ndim == 2:
            return F.fold(values, grid.size, kernel_size=3, padding=1)
        length = grid.num_patches
        full = F.fold(values, (1, length + 2), kernel_size=(1, 3)).squeeze(2)
        return full.narrow(2, 0 if self.causal else 1, length)
