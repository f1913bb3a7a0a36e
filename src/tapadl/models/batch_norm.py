"""Batch norm that counts a batch once."""

import torch
from torch import nn

from tapadl.attach.recomputation import recomputing, statistics_left_alone


class BatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose running statistics do not move again in a backward pass.

    Gradient checkpointing computes a block twice; the plain module would count the batch twice.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """The normed map (B, C, rows, cols)."""
        if not recomputing():
            return super().forward(input)
        with statistics_left_alone(self):
            return super().forward(input)
