"""Other poolings in the place of TAP: larger kernels, one dilation, maximum, equal weights, learned kernels.

All but `equal` let a predictor like that of TAP weigh the branches for every token.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from tapadl.attach.site import select_sites
from tapadl.nn import TokenAwareAveragePooling

Branches = Callable[[torch.Tensor], list[torch.Tensor]]


class Pooling(TokenAwareAveragePooling):
    """What TAP does, with other branches.

    Args:
        dim: Width of the tokens.
        branches: From a map (B, C, rows, cols) to what a token may take in beside itself, each of this shape.
        count: Of these.
    """

    def __init__(self, dim: int, branches: Branches, count: int = 3) -> None:
        super().__init__(dim, num_branches=count + 1)
        self.branches = branches

    def forward(self, tokens: torch.Tensor, grid_size: tuple[int, ...], num_prefix_tokens: int = 0) -> Any:
        """As in `TokenAwareAveragePooling`."""
        weights = self.branch_weights(tokens, grid_size, num_prefix_tokens)
        prefix, patches = tokens[:, :num_prefix_tokens], tokens[:, num_prefix_tokens:]
        token_map = patches.transpose(1, 2).unflatten(2, grid_size)
        parts = [token_map, *self.branches(token_map)]
        pooled = sum(part * weights[:, [place]] for place, part in enumerate(parts))
        return torch.cat([prefix, pooled.flatten(2).transpose(1, 2)], dim=1)


class EqualWeights(Pooling):
    """Every token takes the plain mean of the branches; nothing is predicted."""

    def __init__(self, dim: int, branches: Branches, count: int = 3) -> None:
        super().__init__(dim, branches, count)
        del self.dilation_predictor

    def branch_weights(self, tokens: torch.Tensor, grid_size: tuple[int, ...], *_rest: Any) -> torch.Tensor:
        """1 / K everywhere."""
        return tokens.new_full((1, self.num_branches, *grid_size), 1 / self.num_branches)


class LearnedKernels(nn.ModuleList):
    """A depthwise 3 x 3 kernel for each dilation, which starts as an average; draws no random numbers."""

    def __init__(self, dim: int, count: int = 3) -> None:
        super().__init__()
        for dilation in range(1, count + 1):
            shape = {"kernel_size": 3, "padding": dilation, "dilation": dilation, "groups": dim}
            kernel = nn.utils.skip_init(nn.Conv2d, dim, dim, bias=False, **shape)
            nn.init.constant_(kernel.weight, 1 / 9)
            self.append(kernel)

    def forward(self, token_map: torch.Tensor) -> list[torch.Tensor]:
        """What each kernel gives."""
        return [kernel(token_map) for kernel in self]


def averages(*dilations: int) -> Branches:
    """Means over the 3 x 3 neighbours at these dilations, as TAP takes them."""

    def branches(token_map: torch.Tensor) -> list[torch.Tensor]:
        kernel = token_map.new_full((token_map.shape[1], 1, 3, 3), 1 / 9)
        return [
            F.conv2d(token_map, kernel, padding=dilation, dilation=dilation, groups=len(kernel))
            for dilation in dilations
        ]

    return branches


def growing(token_map: torch.Tensor) -> list[torch.Tensor]:
    """Means over 3 x 3, 5 x 5 and 7 x 7 neighbours, zeros outside."""
    return [F.avg_pool2d(token_map, 2 * reach + 1, stride=1, padding=reach) for reach in (1, 2, 3)]


def maximum(token_map: torch.Tensor) -> list[torch.Tensor]:
    """The largest of the 3 x 3 neighbours at dilations 1, 2 and 3, channel by channel."""
    return [
        F.max_pool2d(F.pad(token_map, [reach] * 4, value=-torch.inf), 3, stride=1, dilation=reach)
        for reach in (1, 2, 3)
    ]


POOLINGS: dict[str, Callable[[int], Pooling]] = {
    "growing kernels": lambda dim: Pooling(dim, growing),
    "only dilation 2": lambda dim: Pooling(dim, averages(2), 1),
    "only dilation 3": lambda dim: Pooling(dim, averages(3), 1),
    "maximum": lambda dim: Pooling(dim, maximum),
    "equal weights": lambda dim: EqualWeights(dim, averages(1, 2, 3)),
    "learned kernels": lambda dim: Pooling(dim, LearnedKernels(dim)),
}


def attach_pooling(model: nn.Module, name: str) -> None:
    """Put one of `POOLINGS` in front of every attention of a vision transformer on square images."""
    for _, site in select_sites(model, None, None):
        pooling = POOLINGS[name](site.norm.weight.shape[0])
        prefix = site.num_prefix_tokens
        site.block.add_module("pooling", pooling)

        def pooled(
            _norm: nn.Module,
            inputs: tuple[torch.Tensor, ...],
            pooling: Pooling = pooling,
            prefix: int = prefix,
        ) -> tuple[torch.Tensor, ...]:
            side = math.isqrt(inputs[0].shape[1] - prefix)
            return (pooling(inputs[0], (side, side), prefix),)

        site.norm.register_forward_pre_hook(pooled)
