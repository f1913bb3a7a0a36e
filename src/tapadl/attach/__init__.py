"""TAP and ADL for a model that already exists."""

from tapadl.attach.closed_trainer import attach_diversification, detach_diversification
from tapadl.attach.description import describe
from tapadl.attach.diversification import AttentionDiversificationLoss
from tapadl.attach.site import MeasuredGrid, SequenceGrid, Site
from tapadl.attach.tap import attach_tap, detach_tap

__all__ = [
    "AttentionDiversificationLoss",
    "MeasuredGrid",
    "SequenceGrid",
    "Site",
    "attach_diversification",
    "attach_tap",
    "describe",
    "detach_diversification",
    "detach_tap",
]
