"""FAN: fully attentional networks, plain and with a convolutional stem."""

import re
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from typing import Any, cast

import torch
from timm.models._features import feature_take_indices
from timm.models.xcit import ClassAttentionBlock
from torch import nn

from tapadl.attach import Site
from tapadl.models.fan_blocks import FANBlock
from tapadl.models.fan_embedding import ConvPatchEmbed, FourierPosition, HybridPatchEmbed
from tapadl.models.grid import grid_behind, to_map, to_tokens
from tapadl.models.token_classifier import TokenClassifier


class FAN(TokenClassifier):
    """Token attention and channel processing in every block, two class-attention blocks at the end.

    Its features (`feature_info`) are the maps of the convolutional stages of a hybrid, the tokens behind each
    block, and last the patch tokens behind the class attention.

    Args:
        img_size: Side or (height, width) of the images it is meant for; it takes any other.
        in_chans: Channels of the images.
        num_classes: Classes; 0 for no head.
        global_pool: "token" for the class token, "avg" for the mean of the patches, "" for all tokens.
        embed_dims: Widths of the tokens; the grid halves where the width changes.
        depths: Blocks of each width.
        num_heads: Heads of each width.
        stem_depths: Blocks of the two ConvNeXt stages of a hybrid; None for plain convolutions.
        patch_size: Side of a patch where there is no such stem.
        eta: Initial scale of the residual branches.
        head_init_scale: Factor of the initial weights of the head.
        paired_frequencies: See `FourierPosition`.
        drop_rate: Dropout in front of the head.
        drop_path_rate: Probability to leave out a branch of a block, the same in every block.

    Source:
        Zhou et al., "Understanding The Robustness in Vision Transformers", ICML 2022.

    Example:
        >>> model = FAN(embed_dims=(32, 64), depths=(2, 1), num_heads=(2, 4), num_classes=10)
        >>> model(torch.zeros(1, 3, 64, 96)).shape
        torch.Size([1, 10])
        >>> [tuple(feature.shape) for feature in model.forward_intermediates(
        ...     torch.zeros(1, 3, 64, 96), intermediates_only=True)]
        [(1, 32, 4, 6), (1, 64, 2, 3), (1, 64, 2, 3), (1, 64, 2, 3)]
    """

    poolings = ("token", "avg", "")

    def __init__(
        self,
        *,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "token",
        embed_dims: Sequence[int] = (192,),
        depths: Sequence[int] = (12,),
        num_heads: Sequence[int] = (4,),
        stem_depths: Sequence[int] | None = None,
        patch_size: int = 16,
        eta: float = 1.0,
        head_init_scale: float = 1.0,
        paired_frequencies: bool = True,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__(num_classes=num_classes, global_pool=global_pool, drop_rate=drop_rate)
        self.img_size = img_size
        self.embed_dim = self.num_features = self.head_hidden_size = embed_dims[-1]
        self.num_prefix_tokens = 1
        self.patch_embed = (
            ConvPatchEmbed(in_chans, embed_dims[0], patch_size)
            if stem_depths is None
            else HybridPatchEmbed(in_chans, embed_dims[0], stem_depths)
        )
        self.pos_embed = FourierPosition(embed_dims[0], paired_frequencies=paired_frequencies)
        widths = [dim for dim, depth in zip(embed_dims, depths, strict=True) for _ in range(depth)]
        heads = [number for number, depth in zip(num_heads, depths, strict=True) for _ in range(depth)]
        self.blocks = nn.ModuleList(
            FANBlock(dim, number, eta=eta, drop_path=drop_path_rate, out_dim=out_dim)
            for dim, number, out_dim in zip(widths, heads, [*widths[1:], widths[-1]], strict=True)
        )
        self.cls_token: nn.Parameter | None = nn.Parameter(torch.zeros(1, 1, self.embed_dim))
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        norm_layer = partial(nn.LayerNorm, eps=1e-6)
        self.cls_attn_blocks = nn.ModuleList(
            ClassAttentionBlock(
                self.embed_dim,
                num_heads[-1],
                qkv_bias=True,
                norm_layer=norm_layer,  # type: ignore[arg-type]
                eta=eta,
                tokens_norm=True,
            )
            for _ in range(2)
        )
        self.norm = norm_layer(self.embed_dim)
        self.head = self._new_head(num_classes)
        with torch.no_grad():
            for parameter in self.head.parameters():
                parameter.mul_(head_init_scale)
        self.feature_info = self._describe_features(16 if stem_depths else patch_size)

    def attention_sites(self) -> list[Site]:
        """The token attention of every block; class attention is no site."""
        sites = []
        grid = grid_behind(self.patch_embed)
        for block in cast(Iterable[FANBlock], self.blocks):
            sites.append(Site(block, block.attn, block.norm1, num_prefix_tokens=0, grid=grid))
            if block.downsample is not None:
                grid = grid_behind(block.downsample)
        return sites

    def forward_head(self, tokens: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Logits (B, num_classes) of what `forward_features` gives; what the head takes if `pre_logits`."""
        if self.global_pool:
            tokens = tokens[:, 0] if self.global_pool == "token" else tokens[:, 1:].mean(dim=1)
        tokens = self.head_drop(tokens)
        return tokens if pre_logits else self.head(tokens)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay leaves alone: temperatures, position, class token."""
        undecayed = re.compile(r"cls_token|pos_embed\..*|.*\.temperature")
        return {name for name, _ in self.named_parameters() if undecayed.fullmatch(name)}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns of the parameters of a layer, for timm's layer-wise learning rates."""
        return {
            "stem": r"^cls_token|^pos_embed|^patch_embed",
            "blocks": r"^blocks\.(\d+)",
            "cls_attn_blocks": [(r"^cls_attn_blocks\.(\d+)", None), (r"^norm", (99999,))],
        }

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what the features with these indices do not need; returns the indices from the front."""
        wanted = list(indices) if isinstance(indices, Sequence) else indices
        take, last = feature_take_indices(len(self.feature_info), wanted)
        if last < len(self.feature_info) - 1:
            self.blocks = self.blocks[: max(0, last + 1 - self._num_stages)]
            self.cls_attn_blocks = nn.ModuleList()
            self.cls_token = None
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0)
        return take

    @property
    def _num_stages(self) -> int:
        """Convolutional stages in front of the patches."""
        return len(self.patch_embed.backbone.stages) if isinstance(self.patch_embed, HybridPatchEmbed) else 0

    def _run(
        self, images: torch.Tensor, take: Collection[int], last: int
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        *stages, patches = self.patch_embed(images)
        grid_size = (patches.shape[2], patches.shape[3])
        features = [stage for index, stage in enumerate(stages) if index in take]
        tokens = to_tokens(patches + self.pos_embed(grid_size))
        for index, block in enumerate(self.blocks, start=len(stages)):
            if index > last:
                return tokens, features
            tokens, grid_size = self._through(block, tokens, grid_size)
            if index in take:
                features.append(to_map(tokens, grid_size))
        if self.cls_token is None or last < len(self.feature_info) - 1:
            return tokens, features
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        for class_block in self.cls_attn_blocks:
            tokens = self._through(class_block, tokens)
        if len(self.feature_info) - 1 in take:
            features.append(to_map(tokens[:, 1:], grid_size))
        return tokens, features

    def _features_norm(self, tokens: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = self.norm(tokens)
        return normed

    def _describe_features(self, reduction: int) -> list[dict[str, Any]]:
        described = []
        if isinstance(self.patch_embed, HybridPatchEmbed):
            described = [
                {"num_chs": width, "reduction": stride, "module": f"patch_embed.backbone.stages.{index}"}
                for index, (width, stride) in enumerate(
                    zip(self.patch_embed.backbone.widths, (4, 8), strict=True)
                )
            ]
        for index, block in enumerate(self.blocks):
            reduction *= 1 if block.downsample is None else 2
            width = block.norm1.normalized_shape[0] if block.downsample is None else self.embed_dim
            described.append({"num_chs": width, "reduction": reduction, "module": f"blocks.{index}"})
        last = f"cls_attn_blocks.{len(self.cls_attn_blocks) - 1}"
        return [*described, {"num_chs": self.embed_dim, "reduction": reduction, "module": last}]
