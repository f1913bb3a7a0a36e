"""The grid of patches that a convolution cuts an image into."""

from typing import Any

from torch import nn


def convolved_grid(convolution: nn.Module, inputs: tuple[Any, ...]) -> tuple[int, int]:
    """The (rows, cols) that an `nn.Conv2d` makes of the map (B, C, H, W) it is called with.

    Source:
        The output size in the documentation of `torch.nn.Conv2d`.

    Example:
        >>> import torch
        >>> convolved_grid(nn.Conv2d(3, 8, kernel_size=7, stride=4, padding=3), (torch.zeros(1, 3, 32, 48),))
        (8, 12)
    """
    height, width = inputs[0].shape[-2:]
    padding: Any = convolution.padding
    if padding == "same":  # torch allows it at stride 1 only
        return height, width
    padded = (0, 0) if padding == "valid" else padding
    spans = zip(convolution.dilation, convolution.kernel_size, strict=True)  # type: ignore[arg-type]
    rows, cols = (
        (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
        for size, pad, (dilation, kernel), stride in zip(
            (height, width),
            padded,
            spans,
            convolution.stride,  # type: ignore[arg-type]
            strict=True,
        )
    )
    return rows, cols


def convolutions_in(part: nn.Module) -> list[nn.Conv2d]:
    """The convolutions in a patch embedding, in order; the embedding may be one itself."""
    return [module for module in part.modules() if isinstance(module, nn.Conv2d)]
