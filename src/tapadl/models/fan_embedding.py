"""How FAN begins: plain and hybrid patch embeddings, and the Fourier position."""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from timm.layers.norm import LayerNorm2d
from timm.models.convnext import ConvNeXtBlock, ConvNeXtStage
from torch import nn

from tapadl.models.grid import GridSize
from tapadl.models.pointwise_conv import PointwiseConv


class ConvPatchEmbed(nn.Module):
    """Patches from convolutions of stride 2, each with batch norm, GELU between them.

    Args:
        in_chans: Channels of the images.
        embed_dim: Width of the tokens.
        patch_size: Side of a patch, a power of 2: one convolution for each factor of 2.
    """

    def __init__(self, in_chans: int, embed_dim: int, patch_size: int = 16) -> None:
        super().__init__()
        num_convs = int(math.log2(patch_size))
        widths = [in_chans, *(embed_dim // 2**halvings for halvings in reversed(range(num_convs)))]
        layers: list[nn.Module] = []
        for width, next_width in pairwise(widths):
            conv = nn.Conv2d(width, next_width, kernel_size=3, stride=2, padding=1, bias=False)
            layers += [nn.Sequential(conv, nn.BatchNorm2d(next_width)), nn.GELU()]
        self.proj = nn.Sequential(*layers[:-1])

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """The patches as a map (B, C, rows, cols), alone in a list."""
        return [self.proj(images)]


class UnbiasedLayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of a map (B, C, H, W) that divides by the unbiased variance.

    With n channels, variance v and w the weight,
    w (x - mean) / sqrt(v n / (n - 1) + eps) = w r (x - mean) / sqrt(v + eps r^2), where r^2 = (n - 1) / n,
    which is an ordinary LayerNorm with weight w r.

    Source:
        The released hybrid models: their norm took this branch for channels-last maps.
    """

    def __init__(self, num_channels: int, eps: float = 1e-6, **placement: Any) -> None:
        super().__init__(num_channels, eps=eps, **placement)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """The normed map (B, C, H, W)."""
        (num_channels,) = self.normalized_shape
        ratio = (num_channels - 1) / num_channels
        normed = F.layer_norm(
            input.permute(0, 2, 3, 1),
            self.normalized_shape,
            self.weight * math.sqrt(ratio),
            self.bias,
            self.eps * ratio,
        )
        return normed.permute(0, 3, 1, 2)


class ConvNeXtStem(nn.Module):
    """The first two stages of a ConvNeXt: maps at strides 4 and 8 with 128 and 256 channels.

    Args:
        in_chans: Channels of the images.
        depths: Blocks of the two stages.
    """

    widths = (128, 256)

    def __init__(self, in_chans: int, depths: Sequence[int]) -> None:
        super().__init__()
        first = self.widths[0]
        self.stem = nn.Sequential(nn.Conv2d(in_chans, first, kernel_size=4, stride=4), LayerNorm2d(first))
        self.stages = nn.ModuleList(
            ConvNeXtStage(
                in_chs=in_chs,
                out_chs=out_chs,
                stride=stride,
                depth=depth,
                ls_init_value=1e-6,
                conv_mlp=True,
                norm_layer=UnbiasedLayerNorm2d,
            )
            for in_chs, out_chs, stride, depth in zip(
                (first, first), self.widths, (1, 2), depths, strict=True
            )
        )
        for stage in cast(Iterable[ConvNeXtStage], self.stages):
            for block in cast(Iterable[ConvNeXtBlock], stage.blocks):
                width = block.conv_dw.out_channels
                block.mlp.fc1 = PointwiseConv(width, 4 * width)
                block.mlp.fc2 = PointwiseConv(4 * width, width)
        self.apply(_init_convnext)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """The maps of both stages."""
        first = self.stages[0](self.stem(images))
        return [first, self.stages[1](first)]


class HybridPatchEmbed(nn.Module):
    """Patches of 16 x 16 from a two-stage ConvNeXt and a convolution of stride 2.

    Args:
        in_chans: Channels of the images.
        embed_dim: Width of the tokens.
        stem_depths: Blocks of the two ConvNeXt stages.
    """

    def __init__(self, in_chans: int, embed_dim: int, stem_depths: Sequence[int]) -> None:
        super().__init__()
        self.backbone = ConvNeXtStem(in_chans, stem_depths)
        self.proj = nn.Conv2d(self.backbone.widths[-1], embed_dim, kernel_size=2, stride=2)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """The maps of both stages, then that of the patches (B, C, rows, cols)."""
        stages = self.backbone(images)
        return [*stages, self.proj(stages[-1])]


class FourierPosition(nn.Module):
    """Sines and cosines of the relative position in the grid, projected to the width of the tokens.

    Args:
        dim: Width of the tokens.
        hidden_dim: Sines and cosines of one axis.
        paired_frequencies: A sine and the cosine behind it share a frequency; the released segmentation model
            gives each its own.
    """

    def __init__(self, dim: int, hidden_dim: int = 32, paired_frequencies: bool = True) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.paired_frequencies = paired_frequencies
        self.token_projection = nn.Conv2d(2 * hidden_dim, dim, kernel_size=1)

    def forward(self, grid_size: GridSize) -> torch.Tensor:
        """The positions of a grid as a map (1, C, rows, cols)."""
        rows, cols = grid_size
        vertical = self._waves(rows)[:, None].expand(rows, cols, -1)
        horizontal = self._waves(cols)[None].expand(rows, cols, -1)
        table = torch.cat([vertical, horizontal], dim=2).permute(2, 0, 1)[None]
        positions: torch.Tensor = self.token_projection(table.to(self.token_projection.weight.dtype))
        return positions

    def _waves(self, length: int) -> torch.Tensor:
        """Waves (length, hidden_dim) along one axis; float32 in every model, as in the released weights."""
        device = self.token_projection.weight.device
        position = torch.arange(1, length + 1, device=device, dtype=torch.float32)
        exponent = torch.arange(self.hidden_dim, device=device, dtype=torch.float32)
        if self.paired_frequencies:
            exponent = 2 * torch.div(exponent, 2, rounding_mode="floor")
        angle = (position / (position[-1:] + 1e-6) * (2 * math.pi))[:, None] / 10000 ** (
            exponent / self.hidden_dim
        )
        return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=2).flatten(1)


def _init_convnext(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)  # type: ignore[arg-type]
