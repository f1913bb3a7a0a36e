"""A 1x1 convolution of maps in channels-last memory."""

import torch
import torch.nn.functional as F
from torch import nn


class PointwiseConv(nn.Conv2d):
    """An `nn.Conv2d` with kernel 1, computed as a linear of each position.

    Maps made of tokens are channels-last, where this is one matrix product on the memory as it is; torch's
    convolution on a CPU copies them first.

    Args:
        in_channels: Channels of the map.
        out_channels: Channels of the result.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=1)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """The map (B, out_channels, H, W), in channels-last memory."""
        mixed = F.linear(input.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias)
        return mixed.permute(0, 3, 1, 2)
