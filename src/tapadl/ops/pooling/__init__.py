"""Token-aware average pooling as a pure function."""

from tapadl.ops.pooling.api import PoolingImpl, token_aware_pooling

__all__ = ["PoolingImpl", "token_aware_pooling"]
