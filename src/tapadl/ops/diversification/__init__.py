"""The attention diversification loss (ADL) as pure functions."""

from tapadl.ops.diversification.api import (
    DiversificationImpl,
    attention_diversification,
    attention_diversification_from_map,
)

__all__ = ["DiversificationImpl", "attention_diversification", "attention_diversification_from_map"]
