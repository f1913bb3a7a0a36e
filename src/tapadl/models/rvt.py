"""RVT: robust vision transformers, with and without position-aware attention scaling."""

from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from timm.models._features import feature_take_indices
from torch import nn

from tapadl.attach import Site
from tapadl.models.grid import grid_behind, to_map, to_tokens
from tapadl.models.rvt_blocks import (
    MaskResize,
    RVTAttention,
    RVTBlock,
    RVTPatchEmbed,
    RVTPooling,
    RVTStage,
    ScaledByPositionAttention,
    patch_grid,
)
from tapadl.models.token_classifier import TokenClassifier


class RVT(TokenClassifier):
    """Transformer blocks with a convolutional MLP, in one or two stages; no class token, no position table.

    Its features (`feature_info`) are the tokens behind each block.

    Args:
        img_size: Side or (height, width) of the images it is meant for: attention masks have the size of its
            grid.
        in_chans: Channels of the images.
        num_classes: Classes; 0 for no head.
        global_pool: "avg" for the mean of the patches, "" for all of them.
        embed_dims: Width of the tokens in each stage; the grid halves between stages.
        depths: Blocks of each stage.
        num_heads: Heads of each stage.
        masked_blocks: How many blocks of the first stage scale their attention by position.
        mask_resize: What becomes of the masks at other sizes: "slice" (the released arithmetic, for smaller
            images) or "interpolate"; see `ScaledByPositionAttention`.
        conv_mlp: Whether the MLP has convolutions and batch norm, or two linears.
        drop_rate: Dropout in front of the head.
        drop_path_rate: Probability to leave out a branch of the last block; it grows linearly from 0.

    Source:
        Mao et al., "Towards Robust Vision Transformer", CVPR 2022.

    Example:
        >>> model = RVT(embed_dims=(32, 64), depths=(2, 1), num_heads=(1, 2), masked_blocks=1, num_classes=10)
        >>> model(torch.zeros(1, 3, 160, 96)).shape
        torch.Size([1, 10])
    """

    poolings = ("avg", "")

    def __init__(
        self,
        *,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        embed_dims: Sequence[int] = (768,),
        depths: Sequence[int] = (12,),
        num_heads: Sequence[int] = (12,),
        masked_blocks: int = 0,
        mask_resize: MaskResize = "slice",
        conv_mlp: bool = True,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__(num_classes=num_classes, global_pool=global_pool, drop_rate=drop_rate)
        self.embed_dim = self.num_features = self.head_hidden_size = embed_dims[-1]
        self.num_prefix_tokens = 0
        self.patch_embed = RVTPatchEmbed(in_chans, embed_dims[0])
        total = max(1, sum(depths) - 1)
        drop_paths = iter([drop_path_rate * index / total for index in range(sum(depths))])

        def attention(dim: int, heads: int, *, masked: bool) -> RVTAttention:
            if masked:
                return ScaledByPositionAttention(dim, heads, patch_grid(img_size), mask_resize)
            return RVTAttention(dim, heads)

        self.transformers = nn.ModuleList(
            RVTStage(
                RVTBlock(
                    dim,
                    attention(dim, heads, masked=stage == 0 and index < masked_blocks),
                    conv_mlp=conv_mlp,
                    drop_path=next(drop_paths),
                )
                for index in range(depth)
            )
            for stage, (dim, depth, heads) in enumerate(zip(embed_dims, depths, num_heads, strict=True))
        )
        self.pools = nn.ModuleList(RVTPooling(dim, out_dim) for dim, out_dim in pairwise(embed_dims))
        self.norm = nn.LayerNorm(self.embed_dim, eps=1e-6)
        self.apply(_init_weights)
        self.head = self._new_head(num_classes)
        self.feature_info = [
            {"num_chs": dim, "reduction": 16 * 2**stage, "module": f"transformers.{stage}.blocks.{index}"}
            for stage, (dim, depth) in enumerate(zip(embed_dims, depths, strict=True))
            for index in range(depth)
        ]

    def attention_sites(self) -> list[Site]:
        """The self-attention of every block."""
        shown_by = [self.patch_embed, *self.pools]
        return [
            Site(block, block.attn, block.norm1, num_prefix_tokens=0, grid=grid_behind(part))
            for part, stage in zip(shown_by, self._stages, strict=True)
            for block in cast(Iterable[RVTBlock], stage.blocks)
        ]

    def forward_head(self, tokens: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Logits (B, num_classes) of what `forward_features` gives; what the head takes if `pre_logits`."""
        pooled: torch.Tensor = self.head_drop(self.norm(tokens.mean(dim=1) if self.global_pool else tokens))
        return pooled if pre_logits else self.head(pooled)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay leaves alone, besides biases and norms: none."""
        return set()

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns of the parameters of a layer, for timm's layer-wise learning rates."""
        if coarse:
            stages = [(r"^transformers\.(\d+)", None), (r"^pools\.(\d+)", None)]
            return {"stem": r"^patch_embed", "blocks": stages}
        return {
            "stem": r"^patch_embed",
            "blocks": [
                (r"^transformers\.(\d+)\.blocks\.(\d+)", None),
                (r"^pools\.(\d+)", (99998,)),
                (r"^norm", (99999,)),
            ],
        }

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what the features with these indices do not need; returns the indices from the front."""
        wanted = list(indices) if isinstance(indices, Sequence) else indices
        take, last = feature_take_indices(len(self.feature_info), wanted)
        remaining = last + 1
        kept = []
        for stage in self._stages:
            stage.blocks = stage.blocks[:remaining]
            remaining -= len(stage.blocks)
            kept += [stage] if len(stage.blocks) else []
        self.transformers = nn.ModuleList(kept)
        self.pools = self.pools[: len(kept) - 1]
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0)
        return take

    @property
    def _stages(self) -> Iterable[RVTStage]:
        return cast(Iterable[RVTStage], self.transformers)

    def _run(
        self, images: torch.Tensor, take: Collection[int], last: int
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        features: list[torch.Tensor] = []
        patches = self.patch_embed(images)
        tokens, grid_size = to_tokens(patches), (patches.shape[2], patches.shape[3])
        index = 0
        for stage, pool in zip(self._stages, [*self.pools, None], strict=True):
            for block in stage.blocks:
                if index > last:
                    return tokens, features
                tokens = self._through(block, tokens, grid_size)
                if index in take:
                    features.append(to_map(tokens, grid_size))
                index += 1
            if pool is not None:
                tokens, grid_size = pool(tokens, grid_size)
        return tokens, features


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
