"""Small models of every kind, in float64, and maps of their attention, recorded without the library."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

import tapadl
from tapadl.demo.settings import ModelConfig
from tapadl.demo.variants import build_model
from tapadl.models.fan import FAN
from tapadl.models.rvt import RVT
from tapadl.models.rvt_blocks import ScaledByPositionAttention


def make_vit(**options) -> nn.Module:
    settings = {
        "img_size": (32, 48),
        "patch_size": 8,
        "embed_dim": 16,
        "depth": 2,
        "num_heads": 2,
        "num_classes": 3,
    }
    return timm.create_model("vit_tiny_patch16_224", **(settings | options))


def make_swin() -> nn.Module:
    return timm.models.swin_transformer.SwinTransformer(
        img_size=32, patch_size=4, embed_dim=8, depths=(2, 1), num_heads=(2, 4), window_size=4, num_classes=3
    )


def make_transformers_vit() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=16,
    )  # fmt: skip
    return transformers.ViTModel(config, add_pooling_layer=False)


@dataclass(frozen=True)
class Case:
    """A model, the images it takes, and for each attention its prefix tokens and windows an image."""

    make: Callable[[], nn.Module]
    image_size: tuple[int, ...]
    prefix: tuple[int, ...]
    windows: tuple[int, ...]


CASES = {
    "demo": Case(
        lambda: build_model("tap", ModelConfig(embed_dim=16, depth=2, num_heads=2), num_classes=3, seed=0),
        (1, 28, 28), (0, 0), (1, 1),
    ),
    "vit with registers": Case(lambda: make_vit(reg_tokens=2), (3, 32, 48), (3, 3), (1, 1)),
    "swin": Case(make_swin, (3, 32, 32), (0, 0, 0), (4, 4, 1)),
    "fan hybrid": Case(
        lambda: FAN(embed_dims=(16,), depths=(2,), num_heads=(2,), stem_depths=(1, 1), num_classes=3),
        (3, 32, 64), (0, 0, 1, 1), (1, 1, 1, 1),
    ),
    "rvt": Case(
        lambda: RVT(
            img_size=96, embed_dims=(16, 32), depths=(2, 1), num_heads=(2, 2), masked_blocks=1, num_classes=3
        ),
        (3, 96, 96), (0, 0, 0), (1, 1, 1),
    ),
    "cait": Case(
        lambda: timm.create_model(
            "cait_xxs24_224", img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=3
        ),
        (3, 32, 32), (0, 0, 1, 1), (1, 1, 1, 1),
    ),
    "transformers vit": Case(make_transformers_vit, (3, 32, 32), (1, 1), (1, 1)),
}  # fmt: skip
QUERIES_AND_KEYS = ("qkv", ".q.", ".kv.", ".k.", "query", "key", "q_proj", "k_proj")


@dataclass(frozen=True)
class Watched:
    """A model with what is known about it."""

    name: str
    model: nn.Module
    images: torch.Tensor
    prefix: tuple[int, ...]
    windows: tuple[int, ...]


@pytest.fixture
def make_model() -> Callable[..., Watched]:
    def make(name: str, count: int = 3) -> Watched:
        torch.manual_seed(0)
        case = CASES[name]
        model = case.make()
        for parameter_name, parameter in model.named_parameters():
            if any(part in parameter_name for part in QUERIES_AND_KEYS):
                nn.init.normal_(parameter, std=0.6)  # uneven enough to pass the threshold of the loss
        images = torch.rand(count, *case.image_size, dtype=torch.float64)
        return Watched(name, model.double().eval(), images, case.prefix, case.windows)

    return make


@pytest.fixture(params=CASES)
def watched(request, make_model) -> Watched:
    return make_model(request.param)


@pytest.fixture
def recorded_maps() -> Callable[[nn.Module, torch.Tensor], list[np.ndarray]]:
    """A function that gives all maps (B, H, N, M) of a model, in order, without fused attention."""
    return record_maps


def record_maps(model: nn.Module, images: torch.Tensor) -> list[np.ndarray]:
    maps: list[np.ndarray] = []
    handles, fused = [], []
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            fused.append((module, module.fused_attn))
            module.fused_attn = False
            dropout = module.attn_drop
            handles.append(dropout.register_forward_hook(lambda _m, given, _o: maps.append(given[0].numpy())))
        if hasattr(module, "proj_w"):  # talking heads mix what the softmax gives
            handles.append(
                module.proj_w.register_forward_pre_hook(
                    lambda _m, given: maps.append(given[0].permute(0, 3, 1, 2).numpy())
                )
            )
        if isinstance(module, ScaledByPositionAttention):
            handles.append(
                module.register_forward_pre_hook(lambda m, given: maps.append(by_position(m, *given)))
            )

    def plain(query, key, value, attn_mask=None, **_options):
        scores = query @ key.mT / query.shape[-1] ** 0.5
        attention = (scores if attn_mask is None else scores + attn_mask).softmax(dim=-1)
        maps.append(attention.numpy())
        return attention @ value

    try:
        with pytest.MonkeyPatch.context() as patch, torch.no_grad():
            patch.setattr(F, "scaled_dot_product_attention", plain)
            model(images)
    finally:
        for handle in handles:
            handle.remove()
        for module, was in fused:
            module.fused_attn = was
    return maps


def by_position(module: nn.Module, tokens: torch.Tensor, _grid_size: tuple[int, int]) -> np.ndarray:
    qkv = module.qkv(tokens).reshape(*tokens.shape[:2], 3, module.num_heads, -1)
    query, key = qkv[:, :, 0].transpose(1, 2), qkv[:, :, 1].transpose(1, 2)
    scores = query @ key.mT / query.shape[-1] ** 0.5 * torch.sigmoid(module.att_mask)
    return scores.softmax(dim=-1).detach().numpy()


@pytest.fixture
def attached_vit() -> nn.Module:
    """With TAP in both blocks, a class token, and 4 x 6 patches."""
    torch.manual_seed(0)
    return tapadl.attach_tap(make_vit()).double().eval()
