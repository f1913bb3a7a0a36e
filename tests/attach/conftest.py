from collections.abc import Callable

import pytest
import timm
import torch
from timm.models import VisionTransformer


@pytest.fixture
def make_vit() -> Callable[..., VisionTransformer]:
    """A small ViT: 32 x 48 images in patches of 8, so 4 x 6 = 24 of them, 3 blocks, 2 heads."""

    def make(**options: object) -> VisionTransformer:
        torch.manual_seed(0)
        settings = {
            "img_size": (32, 48),
            "patch_size": 8,
            "embed_dim": 16,
            "depth": 3,
            "num_heads": 2,
            "num_classes": 5,
        }
        model = timm.create_model("vit_tiny_patch16_224", **(settings | options))
        # Scaled up, so that attention is uneven enough to pass the threshold of the loss.
        for block in model.blocks:
            torch.nn.init.normal_(block.attn.qkv.weight, std=0.6)
        return model

    return make


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))
