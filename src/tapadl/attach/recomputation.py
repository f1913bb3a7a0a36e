"""Whether a module runs for the first time or again, in a backward pass, and what that must not change."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def recomputing() -> bool:
    """Whether this call repeats, in a backward pass, what the forward did already (gradient checkpointing).

    A compiler traces forwards only, and takes care of recomputation itself.
    """
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


@contextmanager
def statistics_left_alone(batch_norm: nn.modules.batchnorm._BatchNorm) -> Iterator[None]:
    """A batch norm that does not count a batch again which it counted in the forward."""
    # Not track_running_stats: checkpointing demands that the same tensors are saved as in the forward.
    momentum, counted = batch_norm.momentum, batch_norm.num_batches_tracked
    before = counted.clone() if counted is not None else None
    batch_norm.momentum = 0.0
    try:
        yield
    finally:
        batch_norm.momentum = momentum
        if counted is not None and before is not None:
            counted.copy_(before)
