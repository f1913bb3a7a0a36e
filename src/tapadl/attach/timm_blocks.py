"""What timm's transformer blocks look like: where their tokens, their attention and their grid are."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from tapadl.attach.site import GridMeasure, MapLayout

Refusal = Callable[[nn.Module], str]


def _never(_block: nn.Module) -> str:
    return ""


def _always(_attention: nn.Module) -> bool:
    return True


def _has_heads(attention: nn.Module) -> bool:
    return hasattr(attention, "num_heads")


def _because(reason: str) -> Refusal:
    return lambda _block: reason


def _block_argument(_block: nn.Module, inputs: tuple[Any, ...]) -> tuple[int, int]:
    """A block that is called with its tokens and their (rows, cols)."""
    rows, cols = inputs[1]
    return rows, cols


def _two_block_arguments(_block: nn.Module, inputs: tuple[Any, ...]) -> tuple[int, int]:
    return inputs[1], inputs[2]


def _map_sides(_block: nn.Module, inputs: tuple[Any, ...]) -> tuple[int, int]:
    """A block that is called with a map (B, C, rows, cols) and flattens it."""
    return inputs[0].shape[-2], inputs[0].shape[-1]


def _csatv2_sides(block: nn.Module, inputs: tuple[Any, ...]) -> tuple[int, int]:
    rows, cols = _map_sides(block, inputs)
    return (rows // 2, cols // 2) if block.downsample else (rows, cols)


def _resolution(block: nn.Module, _inputs: tuple[Any, ...]) -> tuple[int, int]:
    """A block that was built for one grid."""
    rows, cols = block.attn.resolution  # type: ignore[union-attr, misc]
    return rows, cols


@dataclass(frozen=True)
class BlockKind:
    """How one class of blocks is built; the defaults are those of a ViT.

    Args:
        norm: Path inside the block to what takes the tokens, "" for the block itself.
        attention: Path to the module that computes the attention.
        grid: "model" where the model tells the grid of all its blocks, the layout where `norm` takes a map,
            or how the grid shows in the block's own arguments.
        entry: Method of `norm` through which the tokens come.
        head_axis: See `Site`.
        num_prefix_tokens: In front of the patches; None for those of the model.
        attends: Whether what stands at `attention` is an attention, in classes that also hold convolutions.
        no_tap: Why a block of this kind takes no TAP; empty where it does.
        no_adl: Why ADL has no meaning for it; empty where it has.
    """

    norm: str = "norm1"
    attention: str = "attn"
    grid: Literal["model"] | MapLayout | GridMeasure = "model"
    entry: str = "forward"
    head_axis: int | None = -3
    num_prefix_tokens: int | Callable[[nn.Module], int] | None = None
    attends: Callable[[nn.Module], bool] = _always
    no_tap: Refusal = _never
    no_adl: Refusal = _never


def _projected_shortcut(projection: str) -> Refusal:
    reason = "the norm in front of the attention also feeds the projection of the residual"
    return lambda block: reason if getattr(block, projection) is not None else ""


def _sam2_shortcut(block: nn.Module) -> str:
    return _projected_shortcut("proj")(block) if block.dim != block.dim_out else ""


def _not_softmax_alone(block: nn.Module) -> str:
    attention = block.attn
    return "" if type(attention).__name__ != "DiffAttention" else "it is the difference of two softmaxes"


def _convit_prefix(block: nn.Module) -> int:
    return 0 if block.use_gpsa else 1  # the class token joins behind the last block that mixes in position


def _gated_positional(block: nn.Module) -> str:
    return "it mixes two softmaxes, one of content and one of position" if block.use_gpsa else ""


_PARALLEL_MLP = _because("the norm in front of the attention also feeds the MLP beside it")
_SEVERAL_MAPS = _because("it attends to two sets of windows at once")

# Name of the module under timm.models, name of the class -> kind. A subclass is what its base class is.
KINDS = {
    "beit.Block": BlockKind(),
    "cait.LayerScaleBlock": BlockKind(num_prefix_tokens=0),
    "convit.Block": BlockKind(num_prefix_tokens=_convit_prefix, no_adl=_gated_positional),
    "csatv2.TransformerBlock": BlockKind(grid=_csatv2_sides),
    "davit.SpatialBlock": BlockKind(grid=_map_sides),
    "deepseek_vit.DeepseekVitBlock": BlockKind(),
    "efficientformer.MetaBlock1d": BlockKind(attention="token_mixer"),
    "efficientformer_v2.EfficientFormerV2Block": BlockKind("token_mixer", "token_mixer", grid="NCHW"),
    "efficientvit_msra.EfficientVitBlock": BlockKind(
        "mixer.m",
        "mixer.m",
        grid="NCHW",
        no_adl=_because("its heads attend one after the other, each to what the one before it found"),
    ),
    "eva.EvaBlock": BlockKind(),
    "eva.EvaBlockPostNorm": BlockKind(norm="attn"),
    "fastvit.AttentionBlock": BlockKind("norm", "token_mixer", grid="NCHW"),
    "gcvit.GlobalContextVitBlock": BlockKind(grid="NHWC"),
    "gemma4_vit.Gemma4Block": BlockKind(),
    "hiera.HieraBlock": BlockKind(
        head_axis=1, no_tap=_because("its tokens stand in order of mask units, not of the grid")
    ),
    "hieradet_sam2.MultiScaleBlock": BlockKind(grid="NHWC", no_tap=_sam2_shortcut),
    "iformer.SHMABlock": BlockKind("mixer.module", "mixer.module", grid="NCHW", head_axis=None),
    "levit.LevitBlock": BlockKind("attn", grid=_resolution),
    "lowformer.LowFormerBlock": BlockKind("attn.main", "attn.main", grid="NCHW"),
    "cpubone.CPUBoneBlock": BlockKind("total.0.0.main.0", "total.0.0.main.1", grid="NCHW"),
    "maxxvit.TransformerBlock2d": BlockKind(grid="NCHW"),
    "maxxvit.PartitionAttentionCl": BlockKind(grid="NHWC"),
    "maxxvit.PartitionAttention2d": BlockKind(grid="NCHW"),
    "maxxvit.ParallelPartitionAttention": BlockKind(grid="NHWC", no_adl=_SEVERAL_MAPS),
    "metaformer.MetaFormerBlock": BlockKind(attention="token_mixer", attends=_has_heads),
    "_efficientnet_blocks.MobileAttention": BlockKind(norm="norm", grid="NCHW"),
    "mvitv2.MultiScaleBlock": BlockKind(
        grid=_block_argument, no_tap=_projected_shortcut("shortcut_proj_attn")
    ),
    "nest.TransformerLayer": BlockKind(
        head_axis=1, no_tap=_because("its tokens are cut into blocks before they reach it")
    ),
    "nextvit.NextTransformerBlock": BlockKind(attention="e_mhsa", grid="NCHW"),
    "pvt_v2.Block": BlockKind(grid=_block_argument),
    "shvit.BasicBlock": BlockKind("mixer.m.pre_norm", "mixer.m", grid="NCHW", head_axis=None),
    "swin_transformer.SwinTransformerBlock": BlockKind(grid="NHWC"),
    "swin_transformer_v2.SwinTransformerV2Block": BlockKind("", grid="NHWC", entry="_attn"),
    "swin_transformer_v2_cr.SwinTransformerV2CrBlock": BlockKind(
        "", grid="NHWC", entry="_shifted_window_attn"
    ),
    "tiny_vit.TinyVitBlock": BlockKind(
        "attn.norm", no_tap=_because("its tokens are cut into windows between the residual and the norm")
    ),
    "tnt.Block": BlockKind("norm_out", "attn_out"),
    "twins.Block": BlockKind(grid=_block_argument),
    "vision_transformer.Block": BlockKind(no_adl=_not_softmax_alone),
    "vision_transformer.ResPostBlock": BlockKind(norm="attn"),
    "vision_transformer.ParallelScalingBlock": BlockKind("in_norm", "", no_tap=_PARALLEL_MLP),
    "vision_transformer.DiffParallelScalingBlock": BlockKind(
        "in_norm", "", no_tap=_PARALLEL_MLP, no_adl=_because("it is the difference of two softmaxes")
    ),
    "vision_transformer_relpos.RelPosBlock": BlockKind(),
    "vision_transformer_relpos.ResPostRelPosBlock": BlockKind(norm="attn"),
    "vision_transformer_sam.Block": BlockKind(grid="NHWC", head_axis=None),
    "visformer.Block": BlockKind(grid="NCHW"),
    "volo.Transformer": BlockKind(grid="NHWC"),
    "xcit.XCABlock": BlockKind(
        grid=_two_block_arguments, num_prefix_tokens=0, no_adl=_because("it attends over channels")
    ),
}

# Blocks that mix tokens in another way than by a softmax over tokens on a residual branch.
REFUSALS = {
    "byobnet.SelfAttnBlock": "its attention sits inside a convolutional bottleneck without a residual",
    "coat.SerialBlock": "its attention is factorized: no map over the tokens exists",
    "edgenext.SplitTransposeBlock": "its attention is over channels",
    "efficientvit_mit.EfficientVitBlock": "its attention is linear: no map over the tokens exists",
    "efficientvim.EfficientViMBlock": "it mixes tokens by a state space, not by attention",
    "mobilevit.LinearTransformerBlock": "its attention is linear: no map over the tokens exists",
    "swiftformer.EfficientAdditiveAttention": "its attention is additive: no map over the tokens exists",
}
