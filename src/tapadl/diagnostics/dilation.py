"""How far TAP reaches: the dilation it chooses at each patch."""

from typing import Any

import torch
from torch import nn

from tapadl.attach.tap import AttachedTAP
from tapadl.diagnostics.maps import evaluation_mode


def mean_dilation(branch_weights: torch.Tensor) -> torch.Tensor:
    """Mean dilation at each patch, `sum over branches d of d * w_d`.

    Args:
        branch_weights: (B, K, rows, cols), floating point, with sum 1 over K.

    Returns:
        (B, rows, cols) from 0 (the token itself) to K - 1 (all weight on the widest branch).

    Raises:
        ValueError: If the weights do not have four axes.

    Example:
        >>> mean_dilation(torch.full((1, 4, 1, 2), 0.25))
        tensor([[[1.5000, 1.5000]]])
    """
    if branch_weights.ndim != 4:
        raise ValueError(
            f"expected branch_weights of shape (B, K, rows, cols), got {tuple(branch_weights.shape)}"
        )
    dilations = torch.arange(branch_weights.shape[1], device=branch_weights.device)
    return torch.einsum("k,bkrc->brc", dilations.to(branch_weights.dtype), branch_weights)


def dilation_maps(model: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """The mean dilation that every TAP of a model chooses on given images, in evaluation mode.

    Args:
        model: A model, with TAP or without.
        images: What the model takes, (B, C, H, W), on its device.

    Returns:
        One map (B, rows, cols) for each TAP, in order of the blocks; none for a model without TAP.

    Example:
        >>> import timm, tapadl
        >>> model = tapadl.attach_tap(timm.create_model("vit_tiny_patch16_224", depth=2))
        >>> [tuple(dilation.shape) for dilation in dilation_maps(model, torch.zeros(1, 3, 224, 224))]
        [(1, 14, 14), (1, 14, 14)]
    """
    found: list[torch.Tensor] = []

    def measure(tap: AttachedTAP, inputs: tuple[Any, ...]) -> None:
        found.append(mean_dilation(tap.branch_weights(*inputs)))

    taps = [module for module in model.modules() if isinstance(module, AttachedTAP)]
    handles = [tap.register_forward_pre_hook(measure) for tap in taps]
    try:
        if taps:
            with torch.no_grad(), evaluation_mode(model):
                model(images)
    finally:
        for handle in handles:
            handle.remove()
    return found
