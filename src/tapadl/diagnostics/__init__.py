"""Attention looked at: how focused it is, how it moves under corruption, how far TAP reaches."""

from tapadl.diagnostics.dilation import (
    DilationReport,
    LayerDilation,
    dilation_maps,
    mean_dilation,
    measure_dilation,
)
from tapadl.diagnostics.focus import (
    AttentionFocus,
    FocusReport,
    LayerFocus,
    attention_focus,
    measure_focus,
    received_attention,
)
from tapadl.diagnostics.maps import head_mean_attention
from tapadl.diagnostics.rollout import Rollout, attention_rollout
from tapadl.diagnostics.stability import (
    AttentionStability,
    CorruptionStability,
    StabilityReport,
    attention_stability,
    compare_attention,
    measure_stability,
)

__all__ = [
    "AttentionFocus",
    "AttentionStability",
    "CorruptionStability",
    "DilationReport",
    "FocusReport",
    "LayerDilation",
    "LayerFocus",
    "Rollout",
    "StabilityReport",
    "attention_focus",
    "attention_rollout",
    "attention_stability",
    "compare_attention",
    "dilation_maps",
    "head_mean_attention",
    "mean_dilation",
    "measure_dilation",
    "measure_focus",
    "measure_stability",
    "received_attention",
]
