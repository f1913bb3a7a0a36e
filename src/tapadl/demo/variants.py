"""The models that the demo compares."""

import torch
from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from tapadl.attach import attach_tap
from tapadl.data.embedded import load_embedded
from tapadl.demo.settings import ModelConfig, Variant
from tapadl.evaluation.preprocessing import Preprocessing
from tapadl.tasks.classification import Normalisation


def has_tap(variant: Variant) -> bool:
    """Whether the variant pools tokens before attention."""
    return variant in ("tap", "tap+adl")


def has_adl(variant: Variant) -> bool:
    """Whether the variant is trained with the attention diversification loss."""
    return variant in ("adl", "tap+adl")


def build_model(variant: Variant, config: ModelConfig, *, num_classes: int, seed: int) -> nn.Module:
    """A small vision transformer, with TAP where the variant has it.

    With one seed all variants start from the same weights: TAP is attached afterwards, and no global
    random state is used or changed.

    Args:
        variant: Which.
        config: Sizes.
        num_classes: Width of the logits.
        seed: Of the initial weights.

    Example:
        >>> plain = build_model("plain", ModelConfig(), num_classes=10, seed=3)
        >>> tap = build_model("tap", ModelConfig(), num_classes=10, seed=3)
        >>> torch.equal(plain.get_parameter("head.weight"), tap.get_parameter("head.weight"))
        True
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VisionTransformer(
            img_size=config.image_size,
            patch_size=config.patch_size,
            in_chans=1,
            num_classes=num_classes,
            global_pool="avg",
            class_token=False,
            embed_dim=config.embed_dim,
            depth=config.depth,
            num_heads=config.num_heads,
            mlp_ratio=config.mlp_ratio,
        )
        position = build_sincos2d_pos_embed(model.patch_embed.grid_size, dim=config.embed_dim)
        model.pos_embed = nn.Parameter(position[None], requires_grad=False)
        return attach_tap(model, num_branches=config.num_branches) if has_tap(variant) else model


def demo_model() -> tuple[nn.Module, Preprocessing]:
    """The transformer of the demo for `tapadl evaluate`, whose `--checkpoint` brings weights, and TAP if any.

    Example:
        >>> model, preprocessing = demo_model()
        >>> preprocessing.image_size, model.num_classes
        ((28, 28), 10)
    """
    data, config = load_embedded(), ModelConfig()
    normalise = Normalisation.of(data.train.images)
    size = (config.image_size, config.image_size)
    model = build_model("plain", config, num_classes=len(data.class_names), seed=0)
    return model, Preprocessing(size, mean=(normalise.mean,), std=(normalise.std,))
