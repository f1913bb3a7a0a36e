"""Token-aware average pooling as a pure function."""

from tapadl.ops.pooling.api import PoolingImpl, checked_grid, token_aware_pooling

__all__ = ["PoolingImpl", "checked_grid", "token_aware_pooling"]
