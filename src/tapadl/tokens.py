"""Token sequences and the grid they stand for: the patches of an image, or the places of a sequence."""

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class PatchGrid:
    """The grid of patches behind a token sequence, row by row, after the prefix tokens.

    Args:
        size: (rows, cols) of an image, or (length,) of a sequence; every side at least 1.
        num_prefix_tokens: Class, distillation and register tokens in front of the patches.

    Raises:
        ValueError: If a side is below 1 or the number of prefix tokens is negative.

    Example:
        >>> grid = PatchGrid((2, 3), num_prefix_tokens=1)
        >>> tokens = torch.arange(7.0).reshape(1, 7, 1)
        >>> prefix, patches = grid.split(tokens)
        >>> grid.to_map(patches).shape
        torch.Size([1, 1, 2, 3])
        >>> torch.equal(grid.join(prefix, grid.from_map(grid.to_map(patches))), tokens)
        True
        >>> PatchGrid((6,)).to_map(patches).shape
        torch.Size([1, 1, 6])
    """

    size: tuple[int, ...]
    num_prefix_tokens: int = 0

    def __post_init__(self) -> None:
        if min(self.size) < 1:
            raise ValueError(f"expected grid_size with every side at least 1, got {self.size}")
        if self.num_prefix_tokens < 0:
            raise ValueError(f"expected num_prefix_tokens of at least 0, got {self.num_prefix_tokens}")

    @property
    def ndim(self) -> int:
        """2 for an image, 1 for a sequence."""
        return len(self.size)

    @property
    def num_patches(self) -> int:
        """Patches on the grid, rows * cols or the length."""
        return math.prod(self.size)

    @property
    def num_tokens(self) -> int:
        """Length of the sequence, prefix tokens included."""
        return self.num_prefix_tokens + self.num_patches

    def check(self, tokens: torch.Tensor) -> None:
        """Raise ValueError unless `tokens` is (B, num_tokens, C)."""
        if tokens.ndim != 3:
            raise ValueError(f"expected tokens of shape (B, N, C), got {tuple(tokens.shape)}")
        if tokens.shape[1] != self.num_tokens:
            grid = " x ".join(map(str, self.size))
            raise ValueError(
                f"expected {self.num_tokens} tokens for a grid of {grid} patches and "
                f"{self.num_prefix_tokens} prefix tokens, got tokens of shape {tuple(tokens.shape)}"
            )

    def split(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of the prefix tokens (B, num_prefix_tokens, C) and the patch tokens (B, num_patches, C)."""
        return tokens[:, : self.num_prefix_tokens], tokens[:, self.num_prefix_tokens :]

    def join(self, prefix: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        """The sequence (B, N, C) again; the patches themselves where there is no prefix."""
        return torch.cat((prefix, patches), dim=1) if self.num_prefix_tokens else patches

    def to_map(self, patches: torch.Tensor) -> torch.Tensor:
        """Patch tokens (B, num_patches, C) as a map (B, C, *size); a view, channels last in memory."""
        batch, _, dim = patches.shape
        return patches.reshape(batch, *self.size, dim).movedim(-1, 1)

    def from_map(self, patch_map: torch.Tensor) -> torch.Tensor:
        """A map (B, C, *size) as patch tokens (B, num_patches, C)."""
        return patch_map.flatten(2).transpose(1, 2)
