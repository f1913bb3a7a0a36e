"""The models by their official names: a table of settings, registered with timm."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from tapadl.attach import attach_tap
from tapadl.models.fan import FAN
from tapadl.models.fan_swin import FANSwin
from tapadl.models.rvt import RVT


@dataclass(frozen=True)
class Variant:
    """One model.

    Args:
        model: Its class.
        settings: Arguments of the class.
        tap_settings: Arguments that are others in the model with TAP.
        features: Indices that `features_only` gives where nothing else is asked for.
        first_conv: Name of its first convolution.
        classifier: Name of its head.
    """

    model: type[nn.Module]
    settings: dict[str, Any]
    features: tuple[int, ...]
    first_conv: str
    classifier: str = "head"
    tap_settings: dict[str, Any] = field(default_factory=dict)


def _fan(dim: int, depth: int, heads: int) -> Variant:
    settings = {"embed_dims": (dim,), "depths": (depth,), "num_heads": (heads,)}
    return Variant(FAN, settings, features=(4, 7, 11, -1), first_conv="patch_embed.proj.0.0")


def _hybrid(
    dims: tuple[int, ...],
    depths: tuple[int, ...],
    heads: tuple[int, ...],
    stem_depths: tuple[int, int],
    block: int,
    **others: Any,
) -> Variant:
    """A hybrid; its features are both convolutional stages, `block` and the class attention."""
    settings = {"embed_dims": dims, "depths": depths, "num_heads": heads, "stem_depths": stem_depths} | others
    return Variant(FAN, settings, features=(0, 1, 2 + block, -1), first_conv="patch_embed.backbone.stem.0")


def _swin(dim: int, depths: tuple[int, ...], heads: tuple[int, ...]) -> Variant:
    settings = {"embed_dim": dim, "depths": depths, "num_heads": heads}
    return Variant(FANSwin, settings, (0, 1, 2, 3), first_conv="patch_embed.proj", classifier="head.fc")


def _rvt(
    dims: tuple[int, ...],
    depths: tuple[int, ...],
    heads: tuple[int, ...],
    masked_blocks: int = 0,
    tap_settings: dict[str, Any] | None = None,
    **others: Any,
) -> Variant:
    settings = {
        "embed_dims": dims,
        "depths": depths,
        "num_heads": heads,
        "masked_blocks": masked_blocks,
    } | others
    features = (9, 11) if len(dims) == 2 else (3, 7, 11)
    return Variant(RVT, settings, features, "patch_embed.proj.0", tap_settings=tap_settings or {})


_RVT_BASE: dict[str, Any] = {
    "conv_mlp": False,
    "tap_settings": {"conv_mlp": True},
}  # the released base models differ in this

VARIANTS = {
    "fan_tiny_12_p16_224": _fan(192, 12, 4),
    "fan_small_12_p16_224": _fan(384, 12, 8),
    "fan_base_18_p16_224": _fan(448, 18, 8),
    "fan_large_24_p16_224": _fan(480, 24, 10),
    "fan_tiny_8_p4_hybrid": _hybrid((192,), (8,), (8,), (3, 3), block=7),
    "fan_small_12_p4_hybrid": _hybrid((384,), (10,), (8,), (3, 3), block=9),
    "fan_base_16_p4_hybrid": _hybrid((448,), (16,), (8,), (3, 3), block=15),
    "fan_large_16_p4_hybrid": _hybrid((480,), (22,), (10,), (3, 5), block=18, head_init_scale=0.001),
    "fan_Xlarge_16_p4_hybrid": _hybrid((528, 768), (20, 3), (11, 16), (3, 7), block=18),
    "fan_swin_tiny_patch4_window7_224": _swin(96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "fan_swin_small_patch4_window7_224": _swin(96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "fan_swin_base_patch4_window7_224": _swin(128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "fan_swin_large_patch4_window7_224": _swin(192, (2, 2, 18, 2), (6, 12, 24, 48)),
    "rvt_tiny": _rvt((192, 384), (10, 2), (6, 12)),
    "rvt_tiny_plus": _rvt((192, 384), (10, 2), (6, 12), masked_blocks=10),
    "rvt_small": _rvt((384,), (12,), (6,)),
    "rvt_small_plus": _rvt((384,), (12,), (6,), masked_blocks=5),
    "rvt_base": _rvt((768,), (12,), (12,), **_RVT_BASE),
    "rvt_base_plus": _rvt((768,), (12,), (12,), masked_blocks=5, **_RVT_BASE),
}
"""Name -> plain model. Each also exists with TAP in front of every token attention, as "tap_" + name."""

TAP_PREFIX = "tap_"

default_cfgs = generate_default_cfgs(
    {
        f"{prefix}{name}": {
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "pool_size": None,
            "crop_pct": 1.0,
            "interpolation": "bicubic",
            "mean": IMAGENET_DEFAULT_MEAN,
            "std": IMAGENET_DEFAULT_STD,
            "first_conv": variant.first_conv,
            "classifier": variant.classifier,
            "license": "apache-2.0",
        }
        for name, variant in VARIANTS.items()
        for prefix in ("", TAP_PREFIX)
    }
)


def build(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
    """The model with an official name, as `timm.create_model` builds it.

    Args:
        name: A key of `VARIANTS`, with or without "tap_" in front.
        pretrained: Must be False: no weights come with the package.
        options: Arguments of the model class that shall differ from the table, such as `num_classes`,
            `img_size` or `drop_path_rate`, and timm's own, such as `features_only` and `out_indices`.

    Raises:
        ValueError: If the name is unknown; lists the known.
    """
    with_tap, plain_name = name.startswith(TAP_PREFIX), name.removeprefix(TAP_PREFIX)
    if plain_name not in VARIANTS:
        raise ValueError(
            f"expected one of {', '.join(VARIANTS)}, with or without tap_ in front, got {name!r}"
        )
    variant = VARIANTS[plain_name]

    def constructor(**settings: Any) -> nn.Module:
        model = variant.model(**settings)
        return attach_tap(model) if with_tap else model

    settings = variant.settings | (variant.tap_settings if with_tap else {}) | options
    features = {"out_indices": settings.pop("out_indices", variant.features), "feature_cls": "getter"}
    built: nn.Module = build_model_with_cfg(constructor, name, pretrained, feature_cfg=features, **settings)
    return built


def _entrypoint(name: str) -> Callable[..., nn.Module]:
    def create(pretrained: bool = False, **options: Any) -> nn.Module:
        return build(name, pretrained, **options)

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"The model {name}; see `build`."
    return create


for _name in default_cfgs:
    register_model(_entrypoint(_name))
