"""Semantic segmentation: SegFormer's head on the features of FAN, or of any backbone of timm."""

import inspect
from collections.abc import Sequence
from typing import Any, cast

import timm
import torch
import torch.nn.functional as F
from torch import nn

from tapadl.models.registry import TAP_PREFIX, VARIANTS

# Arguments by which models of timm take images of any size, where they have them.
ANY_SIZE = {"dynamic_img_size": True, "strict_img_size": False}


def resized(feature: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """A map (B, C, H, W) at another size, bilinear, its corners not aligned."""
    if feature.shape[2:] == torch.Size(size):
        return feature
    return F.interpolate(feature, size=tuple(size), mode="bilinear", align_corners=False)


class LevelProjection(nn.Module):
    """A linear of every position of a map."""

    def __init__(self, in_channels: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(in_channels, embed_dim)

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        """The map (B, embed_dim, H, W), in channels-last memory."""
        projected: torch.Tensor = self.proj(feature.permute(0, 2, 3, 1))
        return projected.permute(0, 3, 1, 2)


class LevelFusion(nn.Module):
    """A 1x1 convolution over the channels of all levels at the size of the last, batch norm and ReLU.

    The published form enlarges every level, concatenates and convolves. Resizing acts on positions and the
    convolution on channels, both are linear, hence

        conv(concat_i(resize(x_i))) = sum_i resize(conv_i(x_i))

    with conv_i the part of the convolution that reads level i: coarse levels are mixed while they are small.
    """

    def __init__(self, embed_dim: int, num_levels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(num_levels * embed_dim, embed_dim, kernel_size=1, bias=False)
        self.bn = nn.BatchNorm2d(embed_dim)

    def forward(self, levels: Sequence[torch.Tensor]) -> torch.Tensor:
        """The map (B, embed_dim, H, W) of levels (B, embed_dim, h, w), the last of which is H x W."""
        parts = self.conv.weight.flatten(1).chunk(len(levels), dim=1)
        mixed = [
            resized(F.linear(level.permute(0, 2, 3, 1), part).permute(0, 3, 1, 2), levels[-1].shape[2:])
            for level, part in zip(levels, parts, strict=True)
        ]
        return F.relu(self.bn(sum(mixed[1:], mixed[0])))


class SegFormerHead(nn.Module):
    """Logits of every position of the finest level from the features of all levels.

    Args:
        in_channels: Width of each level, in the order of the features; the first one's size is that of the
            logits.
        num_classes: Number of classes.
        embed_dim: Width that each level is projected to.
        dropout: Probability to leave out a channel in front of the classes.

    Source:
        Xie et al., "SegFormer", NeurIPS 2021, arXiv:2105.15203; parameters are named as in MMSegmentation.

    Example:
        >>> head = SegFormerHead((16, 32), num_classes=5, embed_dim=8)
        >>> head([torch.zeros(2, 16, 12, 8), torch.zeros(2, 32, 6, 4)]).shape
        torch.Size([2, 5, 12, 8])
    """

    def __init__(
        self, in_channels: Sequence[int], num_classes: int, embed_dim: int = 768, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.num_levels = len(in_channels)
        for level in range(self.num_levels, 0, -1):
            self.add_module(f"linear_c{level}", LevelProjection(in_channels[level - 1], embed_dim))
        self.linear_fuse = LevelFusion(embed_dim, self.num_levels)
        self.dropout = nn.Dropout2d(dropout)
        self.linear_pred = nn.Conv2d(embed_dim, num_classes, kernel_size=1)

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Logits (B, num_classes, H, W) of features (B, C_i, H_i, W_i), the first of which is H x W.

        Raises:
            ValueError: If there are more or fewer features than levels.
        """
        if len(features) != self.num_levels:
            raise ValueError(f"expected features of {self.num_levels} levels, got {len(features)}")
        levels = [
            self.get_submodule(f"linear_c{level}")(features[level - 1])
            for level in range(self.num_levels, 0, -1)
        ]
        logits: torch.Tensor = self.linear_pred(self.dropout(self.linear_fuse(levels)))
        return logits


class Segmenter(nn.Module):
    """A backbone and a head: images in, logits of every pixel out.

    TAP and ADL attach to it as to the backbone alone. `segmenter.decode_head(segmenter.features(images))`
    are the logits before they are enlarged to the images, if their sides are multiples of the stride.

    Args:
        backbone: A model with timm's `forward_intermediates`.
        decode_head: Takes the list of features.
        out_indices: Which intermediates are the features.
        stride: Pixels a position of the coarsest feature stands for. Images whose sides are no multiple of it
            are continued by zeros, so that every position is that many pixels.
    """

    def __init__(
        self, backbone: nn.Module, decode_head: nn.Module, out_indices: Sequence[int], stride: int = 1
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.decode_head = decode_head
        self.out_indices = list(out_indices)
        self.stride = stride

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, num_classes, H, W) of images (B, in_chans, H, W)."""
        height, width = images.shape[2:]
        below, right = -height % self.stride, -width % self.stride
        padded = F.pad(images, (0, right, 0, below)) if below or right else images
        return resized(self.decode_head(self.features(padded)), padded.shape[2:])[..., :height, :width]

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """What the head takes: maps (B, C_i, H_i, W_i), the finest first, without a norm behind them."""
        backbone = cast(Any, self.backbone)
        maps: list[torch.Tensor] = backbone.forward_intermediates(
            images, indices=self.out_indices, intermediates_only=True
        )
        return maps

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether blocks of the backbone are computed a second time in the backward pass."""
        cast(Any, self.backbone).set_grad_checkpointing(enable)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay leaves alone: those the backbone names."""
        named = getattr(self.backbone, "no_weight_decay", set)
        return {f"backbone.{name}" for name in cast(Any, named)()}


def build_segmenter(
    name: str,
    num_classes: int,
    *,
    head_dim: int = 768,
    head_dropout: float = 0.1,
    out_indices: Sequence[int] | None = None,
    **options: Any,
) -> Segmenter:
    """A backbone by its name in timm under a SegFormer head, for images of any size.

    Features of FAN and RVT are those of `features_only`, for FAN hybrids the paper's (strides 4, 8, 16, 16).
    Of other models they are the last of each stride from 4 on (Swin, ConvNeXt), or, where all have one stride
    (ViT), what each quarter of the blocks gives. What lies behind them is left out.

    Args:
        name: Such as "tap_fan_base_16_p4_hybrid" or "swin_tiny_patch4_window7_224".
        num_classes: Number of classes.
        head_dim: `embed_dim` of `SegFormerHead`.
        head_dropout: `dropout` of `SegFormerHead`.
        out_indices: Other features, as indices of the backbone's `feature_info`.
        options: Of `timm.create_model`, such as `pretrained`, `checkpoint_path`, `drop_path_rate`, or
            `paired_frequencies=False` for the position table of the released segmentation models.

    Raises:
        ValueError: If the backbone gives no features, or is one of ours with fewer blocks than published and
            `out_indices` does not say which features to take.

    Example:
        >>> segmenter = build_segmenter("tap_fan_tiny_8_p4_hybrid", num_classes=19, head_dim=32)
        >>> segmenter(torch.zeros(1, 3, 64, 96)).shape
        torch.Size([1, 19, 64, 96])
    """
    with torch.device("meta"):
        accepted = inspect.signature(type(timm.create_model(name, **_unloaded(options)))).parameters
    any_size = {option: value for option, value in ANY_SIZE.items() if option in accepted}
    backbone: Any = timm.create_model(name, **(any_size | options))
    if not hasattr(backbone, "forward_intermediates"):
        raise ValueError(
            f"expected a backbone with forward_intermediates, got {name}, a {type(backbone).__name__} without"
        )
    if hasattr(getattr(backbone, "patch_embed", None), "dynamic_img_pad"):
        backbone.patch_embed.dynamic_img_pad = True
    described = backbone.feature_info
    wanted = list(out_indices or _default_indices(name, [feature["reduction"] for feature in described]))
    taken = backbone.prune_intermediate_layers(wanted, prune_norm=True, prune_head=True)
    in_channels = [described[index]["num_chs"] for index in taken]
    head = SegFormerHead(in_channels, num_classes, head_dim, head_dropout)
    return Segmenter(backbone, head, taken, max(described[index]["reduction"] for index in taken))


def _unloaded(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in ("pretrained", "checkpoint_path")}


def _default_indices(name: str, reductions: Sequence[int]) -> Sequence[int]:
    ours = VARIANTS.get(name.removeprefix(TAP_PREFIX))
    if ours is not None:
        if max(ours.features) >= len(reductions):
            raise ValueError(
                f"expected out_indices for {name} of another depth, of its features 0 to "
                f"{len(reductions) - 1}, got none; name four of them"
            )
        return ours.features
    last_of_stride = {stride: index for index, stride in enumerate(reductions) if stride >= 4}
    if len(last_of_stride) > 1:
        return list(last_of_stride.values())
    return sorted({-(-len(reductions) * quarter // 4) - 1 for quarter in range(1, 5)})
