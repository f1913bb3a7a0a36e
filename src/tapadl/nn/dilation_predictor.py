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
            _TokenConv2d(dim, num_branches) if ndim == 2 else _TokenConv1d(dim, num_branches, causal),
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


class _TokenConv2d(nn.Conv2d):
    """A convolution of many channels into few, 3 x 3, from tokens (B, N, C) to a map (B, K, rows, cols).

    One matrix product gives 9 K values per token (3 K of a sequence), then shifted adds in at least float32
    put them in place: convolutions round K up to a vector of channels and pay for the whole of it. The
    product takes the prefix tokens along, because leaving them out would cost a copy of all others. A
    compiler gets the plain convolution. What draws the weights of a model's convolutions draws these, too.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1, bias=False)

    def forward(self, tokens: torch.Tensor, grid: PatchGrid) -> torch.Tensor:  # type: ignore[override]
        if torch.compiler.is_compiling():
            return super().forward(grid.to_map(grid.split(tokens)[1]))
        values = _values_of_taps(tokens, self.weight)
        return F.fold(_wide(values, grid), grid.size, kernel_size=3, padding=1).to(values.dtype)


class _TokenConv1d(nn.Conv1d):
    """The same for a sequence, three taps wide; causal: of a token and the two before it."""

    def __init__(self, in_channels: int, out_channels: int, causal: bool) -> None:
        self.causal = causal
        super().__init__(in_channels, out_channels, kernel_size=3, padding=0 if causal else 1, bias=False)

    def forward(self, tokens: torch.Tensor, grid: PatchGrid) -> torch.Tensor:  # type: ignore[override]
        if torch.compiler.is_compiling():
            sequence = grid.to_map(grid.split(tokens)[1])
            return super().forward(F.pad(sequence, (2, 0)) if self.causal else sequence)
        length = grid.num_patches
        values = _values_of_taps(tokens, self.weight)
        full = F.fold(_wide(values, grid), (1, length + 2), kernel_size=(1, 3)).squeeze(2)
        return full.narrow(2, 0 if self.causal else 1, length).to(values.dtype)


def _values_of_taps(tokens: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """What each token gives to its neighbours, (B, N, taps * K)."""
    # fold adds the value of the kernel's last corner where a convolution reads the first.
    taps = weight.flip(*range(2, weight.ndim)).flatten(2).transpose(1, 2).flatten(0, 1)
    return F.linear(tokens, taps)


def _wide(values: torch.Tensor, grid: PatchGrid) -> torch.Tensor:
    """Those of the patches, (B, taps * K, patches), in at least float32."""
    return grid.split(values)[1].transpose(1, 2).to(torch.promote_types(values.dtype, torch.float32))
