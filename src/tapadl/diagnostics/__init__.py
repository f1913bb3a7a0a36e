"""Attention looked at: how focused it is, how it moves under corruption, how far TAP reaches."""

from tapadl.diagnostics.dilation import dilation_maps, mean_dilation
from tapadl.diagnostics.focus import AttentionFocus, attention_focus, received_attention
from tapadl.diagnostics.maps import head_mean_attention
from tapadl.diagnostics.stability import AttentionStability, attention_stability

__all__ = [
    "AttentionFocus",
    "AttentionStability",
    "attention_focus",
    "attention_stability",
    "dilation_maps",
    "head_mean_attention",
    "mean_dilation",
    "received_attention",
]
