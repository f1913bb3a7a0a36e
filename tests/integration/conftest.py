import pytest
import timm
import torch
from torch import nn

import tapadl


@pytest.fixture
def model() -> nn.Module:
    """A small ViT with TAP, its attention uneven enough to pass the threshold of the loss."""
    torch.manual_seed(0)
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=5
    )
    for block in vit.blocks:
        nn.init.normal_(block.attn.qkv.weight, std=0.6)
    return tapadl.attach_tap(vit)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def labels() -> torch.Tensor:
    return torch.arange(4)
