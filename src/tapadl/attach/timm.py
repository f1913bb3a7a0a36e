"""Sites of timm's VisionTransformer: ViT, DeiT (distilled too), DeiT-III, DINOv2 (registers too)."""

from typing import Any

from timm.layers.attention import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from tapadl.attach.site import MeasuredGrid, Site


def sites(part: nn.Module) -> list[Site]:
    """The sites of a timm model, one a block; none where `part` is not a model this adapter knows."""
    if not isinstance(part, VisionTransformer):
        return []
    return [_site(part, block) for block in part.blocks]


def _site(model: VisionTransformer, block: nn.Module) -> Site:
    if not isinstance(block, Block):
        raise ValueError(
            f"expected {type(model).__name__} to be built of timm's Block, got {type(block).__name__}, "
            f"which has no adapter yet; pass sites=[tapadl.Site(...), ...] to attach to it yourself"
        )
    return Site(
        block=block,
        attention=block.attn,
        norm=block.norm1,
        num_prefix_tokens=model.num_prefix_tokens,
        grid=MeasuredGrid(model.patch_embed, patch_embed_grid),
        refuses_tap="patch dropout leaves no grid to pool on; build the model with patch_drop_rate=0"
        if not isinstance(model.patch_drop, nn.Identity)
        else "",
        refuses_adl=""
        if isinstance(block.attn, Attention)
        else f"{type(block.attn).__name__} is not one softmax over the tokens",
    )


def patch_embed_grid(patch_embed: nn.Module, inputs: tuple[Any, ...]) -> tuple[int, int]:
    """The grid of patches that `patch_embed` makes of the images (B, C, H, W) in its inputs."""
    rows, cols = patch_embed.dynamic_feat_size(tuple(inputs[0].shape[-2:]))  # type: ignore[operator]
    return rows, cols
