"""Tokens on their grid: between sequence and map, and where the grid shows."""

import torch
from torch import nn

from tapadl.attach import MeasuredGrid
from tapadl.attach.convolution import convolutions_in, convolved_grid

GridSize = tuple[int, int]


def to_tokens(patch_map: torch.Tensor) -> torch.Tensor:
    """The tokens (B, N, C) of a map (B, C, rows, cols), row by row."""
    return patch_map.flatten(2).transpose(1, 2)


def to_map(tokens: torch.Tensor, grid_size: GridSize) -> torch.Tensor:
    """The map (B, C, rows, cols) of patch tokens (B, N, C), in channels-last memory."""
    patch_map: torch.Tensor = tokens.unflatten(1, grid_size).permute(0, 3, 1, 2)
    return patch_map


def grid_behind(part: nn.Module) -> MeasuredGrid:
    """The grid that the last convolution of a part makes."""
    return MeasuredGrid(convolutions_in(part)[-1], convolved_grid)
