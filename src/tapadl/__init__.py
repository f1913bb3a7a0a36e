"""Vision transformers that survive the real world: TAP and ADL for a model you have, in two lines."""

from tapadl.attach import (
    AttentionDiversificationLoss,
    MeasuredGrid,
    SequenceGrid,
    Site,
    attach_diversification,
    attach_tap,
    describe,
    detach_diversification,
    detach_tap,
)
from tapadl.nn import TokenAwareAveragePooling
from tapadl.ops.diversification import attention_diversification, attention_diversification_from_map
from tapadl.ops.pooling import token_aware_pooling

__all__ = [
    "AttentionDiversificationLoss",
    "MeasuredGrid",
    "SequenceGrid",
    "Site",
    "TokenAwareAveragePooling",
    "attach_diversification",
    "attach_tap",
    "attention_diversification",
    "attention_diversification_from_map",
    "describe",
    "detach_diversification",
    "detach_tap",
    "token_aware_pooling",
]
