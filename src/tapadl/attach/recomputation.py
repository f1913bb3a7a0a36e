"""Whether a module runs for the first time or again, inside a backward pass."""

import torch


def recomputing() -> bool:
    """Whether this call repeats, in a backward pass, what the forward did already (gradient checkpointing).

    A compiler traces forwards only, and takes care of recomputation itself.
    """
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1
