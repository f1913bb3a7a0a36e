"""The attention diversification loss (ADL) as pure functions."""

from .api import attention_diversification, attention_diversification_from_map

__all__ = ["attention_diversification", "attention_diversification_from_map"]
