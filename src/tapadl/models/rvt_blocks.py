"""Parts of RVT: patch embedding, attention with and without scaling by position, MLPs, block and pooling."""

from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from timm.layers.drop import DropPath
from timm.layers.helpers import to_2tuple
from torch import nn

from tapadl.models.batch_norm import BatchNorm2d
from tapadl.models.grid import GridSize, to_map, to_tokens
from tapadl.models.pointwise_conv import PointwiseConv

MaskResize = Literal["slice", "interpolate"]


class RVTPatchEmbed(nn.Module):
    """Patches of about 16 x 16 from two convolutions with batch norm and max pooling between them."""

    def __init__(self, in_chans: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.Conv2d(in_chans, 32, kernel_size=7, stride=2, padding=2),
            nn.BatchNorm2d(32),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
            nn.Conv2d(32, embed_dim, kernel_size=4, stride=4),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The patches as a map (B, C, rows, cols)."""
        patches: torch.Tensor = self.proj(images)
        return patches


def patch_grid(img_size: int | tuple[int, int]) -> GridSize:
    """The (rows, cols) of the patches that `RVTPatchEmbed` makes of images of a size.

    Example:
        >>> patch_grid((224, 160))
        (14, 10)
    """
    rows, cols = (((side - 3) // 2) // 2 + 1 for side in to_2tuple(img_size))
    return rows // 4, cols // 4


class RVTAttention(nn.Module):
    """Multi-head self-attention over the tokens."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: torch.Tensor, grid_size: GridSize) -> torch.Tensor:
        """The attended tokens (B, N, C)."""
        query, key, value = self.qkv(tokens).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attended = self._attend(query, key, value, grid_size)
        projected: torch.Tensor = self.proj(attended.transpose(1, 2).flatten(2))
        return projected

    def _attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, _grid_size: GridSize
    ) -> torch.Tensor:
        return F.scaled_dot_product_attention(query, key, value)


class ScaledByPositionAttention(RVTAttention):
    """Attention whose scores are multiplied by sigmoid(att_mask) before the softmax.

    The mask is one number for each head, query and key of the grid it is built for. Smaller inputs use its
    first rows and columns, whatever their grid, as the released models do; `mask_resize="interpolate"`
    interpolates it bilinearly over the grids of queries and keys, to any size.

    Args:
        dim: Width of the tokens.
        num_heads: Number of heads.
        grid_size: (rows, cols) the mask is built for.
        mask_resize: What becomes of the mask on another grid.

    Source:
        Mao et al., "Towards Robust Vision Transformer", CVPR 2022, section 4.1 (position-aware attention
        scaling).
    """

    def __init__(
        self, dim: int, num_heads: int, grid_size: GridSize, mask_resize: MaskResize = "slice"
    ) -> None:
        super().__init__(dim, num_heads)
        self.grid_size = grid_size
        self.mask_resize = mask_resize
        num_tokens = grid_size[0] * grid_size[1]
        self.att_mask = nn.Parameter(torch.zeros(num_heads, num_tokens, num_tokens))

    def _attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, grid_size: GridSize
    ) -> torch.Tensor:
        # No fused kernel multiplies the scores.
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(2, 3)
        attention = (scores * self._mask(grid_size).sigmoid()).softmax(dim=-1)
        return torch.matmul(attention, value)

    def _mask(self, grid_size: GridSize) -> torch.Tensor:
        if grid_size == self.grid_size:
            return self.att_mask
        if self.mask_resize == "interpolate":
            return self._interpolated_mask(grid_size)
        num_tokens, room = grid_size[0] * grid_size[1], self.att_mask.shape[1]
        if num_tokens > room:
            raise ValueError(
                f"expected at most {room} patches, for which the attention masks were built (a grid of "
                f"{self.grid_size}), got {num_tokens} (a grid of {grid_size}); build the model for this "
                f'img_size, or with mask_resize="interpolate"'
            )
        return self.att_mask[:, :num_tokens, :num_tokens]

    def _interpolated_mask(self, grid_size: GridSize) -> torch.Tensor:
        def resized(mask: torch.Tensor) -> torch.Tensor:
            """The mask (H, N, M) with its last axis on the new grid, (H, N, M')."""
            maps = mask.unflatten(2, self.grid_size)
            return F.interpolate(maps, size=grid_size, mode="bilinear").flatten(2)

        return resized(resized(self.att_mask).transpose(1, 2)).transpose(1, 2)


class ConvMLP(nn.Module):
    """An MLP on the grid: 1x1, depthwise 3x3 and 1x1 convolutions, each with batch norm, and GELU between."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = PointwiseConv(dim, hidden_dim)
        self.bn1 = BatchNorm2d(hidden_dim)
        self.dwconv = nn.Conv2d(hidden_dim, hidden_dim, kernel_size=3, padding=1, groups=hidden_dim)
        self.bn2 = BatchNorm2d(hidden_dim)
        self.fc2 = PointwiseConv(hidden_dim, dim)
        self.bn3 = BatchNorm2d(dim)
        self.act = nn.GELU()

    def forward(self, tokens: torch.Tensor, grid_size: GridSize) -> torch.Tensor:
        """The tokens (B, N, C) after the MLP."""
        hidden = self.act(self.bn1(self.fc1(to_map(tokens, grid_size))))
        hidden = self.act(self.bn2(self.dwconv(hidden)))
        return to_tokens(self.bn3(self.fc2(hidden)))


class TokenMLP(nn.Module):
    """An MLP on each token by itself."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, tokens: torch.Tensor, _grid_size: GridSize) -> torch.Tensor:
        """The tokens (B, N, C) after the MLP."""
        mixed: torch.Tensor = self.fc2(self.act(self.fc1(tokens)))
        return mixed


class RVTBlock(nn.Module):
    """Attention, then an MLP, each on a residual branch."""

    def __init__(self, dim: int, attention: RVTAttention, *, conv_mlp: bool, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = attention
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = ConvMLP(dim, 4 * dim) if conv_mlp else TokenMLP(dim, 4 * dim)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, tokens: torch.Tensor, grid_size: GridSize) -> torch.Tensor:
        """The tokens (B, N, C) behind the block."""
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens), grid_size))
        behind: torch.Tensor = tokens + self.drop_path(self.mlp(self.norm2(tokens), grid_size))
        return behind


class RVTStage(nn.Module):
    """The blocks of one width; the model runs them."""

    def __init__(self, blocks: Iterable[RVTBlock]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)


class RVTPooling(nn.Module):
    """Halves the grid between stages, with a grouped convolution."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, out_dim, kernel_size=3, stride=2, padding=1, groups=dim)

    def forward(self, tokens: torch.Tensor, grid_size: GridSize) -> tuple[torch.Tensor, GridSize]:
        """Tokens (B, N', C') and their grid."""
        pooled = self.conv(to_map(tokens, grid_size))
        return to_tokens(pooled), (pooled.shape[2], pooled.shape[3])
