"""Token sequences and the patch grid they stand for."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class PatchGrid:
    """The grid of patches behind a token sequence, row by row, after the prefix tokens.

    Args:
        rows: Patches along the height of the image, at least 1.
        cols: Patches along its width, at least 1.
        num_prefix_tokens: Class, distillation and register tokens in front of the patches.

    Raises:
        ValueError: If a side is below 1 or the number of prefix tokens is negative.

    Example:
        >>> grid = PatchGrid(rows=2, cols=3, num_prefix_tokens=1)
        >>> tokens = torch.arange(7.0).reshape(1, 7, 1)
        >>> prefix, patches = grid.split(tokens)
        >>> grid.to_map(patches).shape
        torch.Size([1, 1, 2, 3])
        >>> torch.equal(grid.join(prefix, grid.from_map(grid.to_map(patches))), tokens)
        True
    """

    rows: int
    cols: int
    num_prefix_tokens: int = 0

    def __post_init__(self) -> None:
        if self.rows < 1 or self.cols < 1:
            raise ValueError(
                f"expected grid_size=(rows, cols) with both sides at least 1, got ({self.rows}, {self.cols})"
            )
        if self.num_prefix_tokens < 0:
            raise ValueError(f"expected num_prefix_tokens of at least 0, got {self.num_prefix_tokens}")

    @property
    def num_patches(self) -> int:
        """Patches on the grid, rows * cols."""
        return self.rows * self.cols

    @property
    def num_tokens(self) -> int:
        """Length of the sequence, prefix tokens included."""
        return self.num_prefix_tokens + self.num_patches

    def check(self, tokens: torch.Tensor) -> None:
        """Raise ValueError unless `tokens` is (B, num_tokens, C)."""
        if tokens.ndim != 3:
            raise ValueError(f"expected tokens of shape (B, N, C), got {tuple(tokens.shape)}")
        if tokens.shape[1] != self.num_tokens:
            raise ValueError(
                f"expected {self.num_tokens} tokens for a grid of {self.rows} x {self.cols} patches and "
                f"{self.num_prefix_tokens} prefix tokens, got tokens of shape {tuple(tokens.shape)}"
            )

    def split(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of the prefix tokens (B, P, C) and the patch tokens (B, rows * cols, C)."""
        return tokens[:, : self.num_prefix_tokens], tokens[:, self.num_prefix_tokens :]

    def join(self, prefix: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        """The sequence (B, N, C) again; the patches themselves where there is no prefix."""
        return torch.cat((prefix, patches), dim=1) if self.num_prefix_tokens else patches

    def to_map(self, patches: torch.Tensor) -> torch.Tensor:
        """Patch tokens (B, rows * cols, C) as a map (B, C, rows, cols); a view, channels last in memory."""
        batch, _, dim = patches.shape
        return patches.reshape(batch, self.rows, self.cols, dim).permute(0, 3, 1, 2)

    def from_map(self, patch_map: torch.Tensor) -> torch.Tensor:
        """A map (B, C, rows, cols) as patch tokens (B, rows * cols, C)."""
        return patch_map.permute(0, 2, 3, 1).flatten(1, 2)
