"""Modules of the method."""

from tapadl.nn.pooling import PoolingInit, TokenAwareAveragePooling

__all__ = ["PoolingInit", "TokenAwareAveragePooling"]
