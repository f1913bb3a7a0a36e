"""Parts of FAN: token attention, channel processing and their block."""

import math
from typing import cast

import torch
import torch.nn.functional as F
from timm.layers.drop import DropPath
from torch import nn

from tapadl.models.batch_norm import BatchNorm2d
from tapadl.models.grid import GridSize, to_map, to_tokens


class TokenAttention(nn.Module):
    """Multi-head self-attention over the tokens, with a linear for the query and one for key and value."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """The attended tokens (B, N, C)."""
        query = self.q(tokens).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        key, value = self.kv(tokens).unflatten(2, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value)
        projected: torch.Tensor = self.proj(attended.transpose(1, 2).flatten(2))
        return projected


class DepthwiseConvs(nn.Module):
    """Two depthwise 3x3 convolutions of a map, with GELU and batch norm between them."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim)
        self.act = nn.GELU()
        self.bn = BatchNorm2d(dim)
        self.conv2 = nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim)

    def forward(self, patch_map: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """The map (B, C, rows, cols) after both, times `scale` (C,)."""
        hidden = self.bn(self.act(self.conv1(patch_map)))
        # scale * conv2(hidden), without passing over the map once more
        weight = self.conv2.weight * scale[:, None, None, None]
        bias = cast(torch.Tensor, self.conv2.bias) * scale
        return F.conv2d(hidden, weight, bias, padding=1, groups=len(scale))


class ConvolvedMLP(nn.Module):
    """An MLP whose activation is a pair of depthwise convolutions on the grid.

    Args:
        dim: Width of the tokens.
        hidden_dim: Width inside.
        residual: Whether what goes into the convolutions is added to what comes out.
    """

    def __init__(self, dim: int, hidden_dim: int, residual: bool = True) -> None:
        super().__init__()
        self.residual = residual
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.dwconv = DepthwiseConvs(hidden_dim)
        self.gamma = nn.Parameter(torch.ones(hidden_dim))
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, tokens: torch.Tensor, grid_size: GridSize) -> torch.Tensor:
        """The tokens (B, N, C) after the MLP."""
        hidden = self.fc1(tokens)
        convolved = to_tokens(self.dwconv(to_map(hidden, grid_size), self.gamma))
        mixed: torch.Tensor = self.fc2(hidden + convolved if self.residual else convolved)
        return mixed


class ChannelProcessing(nn.Module):
    """FAN's channel attention: an MLP whose output channels are weighted by how they agree with their head.

    With u the tokens, q their query and softmax over the tokens, the weight of channel c of head h is
    temperature_h * sigmoid(sum_n softmax(q)_nc * mean_{c' in h} softmax(u)_nc').

    Args:
        dim: Width C of the tokens.
        num_heads: Number of heads.
        mlp_ratio: Width of the MLP inside, as a multiple of `dim`.
        residual: See `ConvolvedMLP`.

    Source:
        Zhou et al., "Understanding The Robustness in Vision Transformers", ICML 2022, section 3.2.
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4.0, residual: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.mlp_v = ConvolvedMLP(dim, int(dim * mlp_ratio), residual)
        self.norm_v = nn.LayerNorm(dim)
        self.q = nn.Linear(dim, dim)

    def forward(self, tokens: torch.Tensor, grid_size: GridSize) -> torch.Tensor:
        """The tokens (B, N, C) after weighting."""
        processed: torch.Tensor = self.norm_v(self.mlp_v(tokens, grid_size)) * self._channel_weights(tokens)
        return processed

    def _channel_weights(self, tokens: torch.Tensor) -> torch.Tensor:
        heads = (self.num_heads, -1)
        query = self.q(tokens).softmax(dim=1).unflatten(2, heads)
        key = tokens.softmax(dim=1).unflatten(2, heads).mean(dim=3)
        agreement = torch.einsum("bnhd,bnh->bhd", query, key)
        return (agreement.sigmoid() * self.temperature[:, 0]).flatten(1)[:, None]


class PatchMerging(nn.Module):
    """Halves the grid between widths: an overlapping 3x3 convolution of stride 2, then LayerNorm."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(dim, out_dim, kernel_size=3, stride=2, padding=1)
        self.norm = nn.LayerNorm(out_dim)

    def forward(self, tokens: torch.Tensor, grid_size: GridSize) -> tuple[torch.Tensor, GridSize]:
        """Tokens (B, N', C') and their grid."""
        merged = self.proj(to_map(tokens, grid_size))
        return self.norm(to_tokens(merged)), (merged.shape[2], merged.shape[3])


class FANBlock(nn.Module):
    """Token attention, then channel processing, each on a scaled residual branch.

    Args:
        dim: Width of the tokens.
        num_heads: Heads of both.
        eta: Initial scale of the branches.
        drop_path: Probability to leave a branch out in training.
        out_dim: Width behind the block; where it is another, the grid halves at the end.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        eta: float = 1.0,
        drop_path: float = 0.0,
        out_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = TokenAttention(dim, num_heads)
        self.gamma1 = nn.Parameter(torch.full((dim,), eta))
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = ChannelProcessing(dim, num_heads)
        self.gamma2 = nn.Parameter(torch.full((dim,), eta))
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.downsample = None if out_dim in (None, dim) else PatchMerging(dim, out_dim or dim)
        self.apply(init_fan_weights)

    def forward(self, tokens: torch.Tensor, grid_size: GridSize) -> tuple[torch.Tensor, GridSize]:
        """The tokens (B, N, C) and their grid, behind the block."""
        tokens = tokens + self.drop_path(self.gamma1 * self.attn(self.norm1(tokens)))
        tokens = tokens + self.drop_path(self.gamma2 * self.mlp(self.norm2(tokens), grid_size))
        if self.downsample is None:
            return tokens, grid_size
        merged, merged_grid = self.downsample(tokens, grid_size)
        return merged, merged_grid


def init_fan_weights(module: nn.Module) -> None:
    """Initial weights of linears and convolutions, for `nn.Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)
