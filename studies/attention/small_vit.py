"""The small vision transformer of the study on Fashion-MNIST."""

import torch
from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn.functional import pad

from tapadl.evaluation.preprocessing import Preprocessing

SIDE = 28  # pixels
MEAN, STD = 0.286, 0.353  # of the training images


def vit(patch_size: int = 4, pool: str = "token") -> tuple[nn.Module, Preprocessing]:
    """Width 48, 3 blocks, 3 heads, fixed sine and cosine positions.

    Args:
        patch_size: 4 for 49 patches, 2 for 196.
        pool: "token" classifies a class token, "avg" the mean of the patches, without class token.
    """
    has_class_token = pool == "token"
    model = VisionTransformer(
        img_size=SIDE,
        patch_size=patch_size,
        in_chans=1,
        num_classes=10,
        global_pool=pool,
        class_token=has_class_token,
        embed_dim=48,
        depth=3,
        num_heads=3,
        mlp_ratio=2.0,
    )
    positions = build_sincos2d_pos_embed(model.patch_embed.grid_size, dim=48)
    positions = pad(positions, (0, 0, int(has_class_token), 0))[None]
    model.pos_embed = nn.Parameter(positions.to(torch.float32), requires_grad=False)
    return model, Preprocessing((SIDE, SIDE), mean=(MEAN,), std=(STD,))
