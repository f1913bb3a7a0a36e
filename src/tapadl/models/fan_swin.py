"""FAN-Swin: a Swin transformer with channel processing for an MLP in all stages but the last."""

from collections.abc import Iterable
from typing import Any, cast

import torch
from timm.layers.config import use_fused_attn
from timm.layers.drop import DropPath
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock, SwinTransformerStage
from torch import nn

from tapadl.attach import Site
from tapadl.models.fan_blocks import ChannelProcessing, init_fan_weights


class FANSwinBlock(SwinTransformerBlock):
    """A Swin block whose MLP is channel processing on the whole grid.

    Args:
        plain: The block of timm to build one like; its weights are not taken over.
    """

    def __init__(self, plain: SwinTransformerBlock) -> None:
        super().__init__(
            dim=plain.dim,
            input_resolution=plain.input_resolution,
            num_heads=plain.attn.num_heads,
            window_size=plain.window_size,
            shift_size=plain.target_shift_size,
            always_partition=plain.always_partition,
            dynamic_mask=plain.dynamic_mask,
            drop_path=plain.drop_path1.drop_prob if isinstance(plain.drop_path1, DropPath) else 0.0,
        )
        self.mlp = ChannelProcessing(plain.dim, plain.attn.num_heads, residual=False)  # type: ignore[assignment]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The map (B, rows, cols, C) behind the block."""
        x = x + self.drop_path1(self._attn(self.norm1(x)))  # type: ignore[no-untyped-call]
        grid_size = (x.shape[1], x.shape[2])
        processed = self.mlp(self.norm2(x).flatten(1, 2), grid_size)
        behind: torch.Tensor = x + self.drop_path2(processed.unflatten(1, grid_size))
        return behind


class FANSwin(SwinTransformer):
    """timm's Swin transformer with `FANSwinBlock` in all stages but the last.

    Args:
        img_size: Side or (height, width) of the images it is built for; it takes any other.
        swin: Arguments of `timm.models.swin_transformer.SwinTransformer`.

    Source:
        Zhou et al., "Understanding The Robustness in Vision Transformers", ICML 2022, section 3.3.

    Example:
        >>> model = FANSwin(embed_dim=24, depths=(1, 1), num_heads=(2, 4), num_classes=10)
        >>> model(torch.zeros(1, 3, 64, 96)).shape
        torch.Size([1, 10])
    """

    def __init__(self, *, img_size: int | tuple[int, int] = 224, **swin: Any) -> None:
        settings = {"drop_path_rate": 0.0, "strict_img_size": False} | swin
        super().__init__(img_size=img_size, weight_init="skip", **settings)
        # images whose sides are no multiple of a patch
        self.patch_embed.dynamic_img_pad = True  # type: ignore[assignment]
        for stage in self._stages[:-1]:
            plain = cast(Iterable[SwinTransformerBlock], stage.blocks)
            stage.blocks = nn.Sequential(*(FANSwinBlock(block) for block in plain))
        self.apply(init_fan_weights)
        for site in self.attention_sites():
            # timm fuses the attention of its other transformers by this switch, that of Swin by a second one
            site.attention.fused_attn = use_fused_attn()  # type: ignore[assignment]

    def attention_sites(self) -> list[Site]:
        """The window attention of every block."""
        return [
            Site(block, block.attn, block.norm1, num_prefix_tokens=0, grid="NHWC")
            for stage in self._stages
            for block in cast(Iterable[SwinTransformerBlock], stage.blocks)
        ]

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay leaves alone: temperatures and position biases."""
        tails = ("temperature", "relative_position_bias_table")
        return {name for name, _ in self.named_parameters() if name.endswith(tails)}

    @property
    def _stages(self) -> list[SwinTransformerStage]:
        return list(cast(Iterable[SwinTransformerStage], self.layers))
