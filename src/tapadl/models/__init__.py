"""The paper's models: FAN and RVT, plain and with TAP, registered with timm, and segmenters on them."""

from tapadl.models.fan import FAN
from tapadl.models.fan_swin import FANSwin
from tapadl.models.registry import VARIANTS, Variant
from tapadl.models.rvt import RVT
from tapadl.models.segformer import SegFormerHead, Segmenter, build_segmenter

__all__ = ["FAN", "RVT", "VARIANTS", "FANSwin", "SegFormerHead", "Segmenter", "Variant", "build_segmenter"]
