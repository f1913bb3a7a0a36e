"""Sites of the vision encoders of transformers: ViT, DeiT, DINOv2/v3, BEiT, Swin, SegFormer, SigLIP, CLIP."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from tapadl.attach.convolution import convolutions_in, convolved_grid
from tapadl.attach.site import MeasuredGrid, Site


@dataclass(frozen=True)
class Family:
    """How the encoders of one family are built.

    Args:
        layer: Class name of a block.
        norm: Attribute of the block: the norm in front of the attention.
        attention: Attribute of the block: the attention.
        num_prefix_tokens: Tokens in front of the patches, from the configuration of the model.
        layer_knows_grid: Whether a block is called with the grid; the patch embedding shows it otherwise.
    """

    layer: str
    norm: str
    attention: str
    num_prefix_tokens: Callable[[Any], int] = lambda _config: 0
    layer_knows_grid: bool = False


def _class_token(_config: Any) -> int:
    return 1


def _class_and_distillation_token(_config: Any) -> int:
    return 2


def _class_and_register_tokens(config: Any) -> int:
    return 1 + int(config.num_register_tokens)


# By the class name of the patch embedding, which every encoder has as its own.
FAMILIES = {
    "ViTEmbeddings": Family("ViTLayer", "layernorm_before", "attention", _class_token),
    "DeiTEmbeddings": Family("DeiTLayer", "layernorm_before", "attention", _class_and_distillation_token),
    "BeitEmbeddings": Family("BeitLayer", "layernorm_before", "attention", _class_token),
    "Dinov2Embeddings": Family("Dinov2Layer", "norm1", "attention", _class_token),
    "Dinov2WithRegistersEmbeddings": Family(
        "Dinov2WithRegistersLayer", "norm1", "attention", _class_and_register_tokens
    ),
    "DINOv3ViTEmbeddings": Family("DINOv3ViTLayer", "norm1", "attention", _class_and_register_tokens),
    "CLIPVisionEmbeddings": Family("CLIPEncoderLayer", "layer_norm1", "self_attn", _class_token),
    "SiglipVisionEmbeddings": Family("SiglipEncoderLayer", "layer_norm1", "self_attn"),
    "SwinEmbeddings": Family("SwinLayer", "layernorm_before", "attention", layer_knows_grid=True),
    "SegformerOverlapPatchEmbeddings": Family("SegformerLayer", "layernorm_before", "attention"),
}


def sites(part: nn.Module) -> list[Site]:
    """The sites of an encoder (for SegFormer of a stage); none where `part` embeds no patches itself."""
    for attribute in ("embeddings", "patch_embeddings"):
        embeddings = getattr(part, attribute, None)
        for name in _class_names(embeddings):
            if name in FAMILIES:
                return _sites_of(part, embeddings, FAMILIES[name])
    return []


def _sites_of(encoder: nn.Module, embeddings: Any, family: Family) -> list[Site]:
    num_prefix_tokens = family.num_prefix_tokens(getattr(encoder, "config", None))
    return [
        Site(
            block=block,
            attention=getattr(block, family.attention),
            norm=getattr(block, family.norm),
            num_prefix_tokens=num_prefix_tokens,
            grid=MeasuredGrid(block, told_grid)
            if family.layer_knows_grid
            else MeasuredGrid(convolutions_in(embeddings)[0], convolved_grid),
        )
        for block in encoder.modules()
        if family.layer in _class_names(block)
    ]


def _class_names(module: object) -> list[str]:
    # Bases too: fully_shard puts a class of its own in front of the one of the model.
    return [base.__name__ for base in type(module).__mro__]


def told_grid(_layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[int, int]:
    """The grid that a Swin block is called with, behind its tokens."""
    rows, cols = inputs[1]
    return int(rows), int(cols)
