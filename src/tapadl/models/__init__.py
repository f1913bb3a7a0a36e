"""The paper's backbones, FAN and RVT, plain and with TAP; importing this registers them with timm."""

from tapadl.models.fan import FAN
from tapadl.models.fan_swin import FANSwin
from tapadl.models.registry import VARIANTS, Variant
from tapadl.models.rvt import RVT

__all__ = ["FAN", "RVT", "VARIANTS", "FANSwin", "Variant"]
