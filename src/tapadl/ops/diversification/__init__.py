"""The attention diversification loss (ADL) as pure functions."""

from tapadl.ops.diversification.api import (
    DiversificationImpl,
    attention_diversification,
    attention_diversification_from_map,
)
from tapadl.ops.diversification.visibility import may_see

__all__ = [
    "DiversificationImpl",
    "attention_diversification",
    "attention_diversification_from_map",
    "may_see",
]
