"""Batch norm that counts a batch once."""

import torch
from torch import nn

from tapadl.attach.recomputation import recomputing, statistics_left_alone


class _CountsOnce(nn.modules.batchnorm._BatchNorm):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """The normed map (B, C, rows, cols)."""
        if not recomputing():
            return super().forward(input)
        with statistics_left_alone(self):
            return super().forward(input)


class BatchNorm2d(_CountsOnce, nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose running statistics do not move again in a backward pass.

    Gradient checkpointing computes a block twice; the plain module would count the batch twice.
    """


class SyncBatchNorm(_CountsOnce, nn.SyncBatchNorm):
    """`BatchNorm2d` over all processes."""
