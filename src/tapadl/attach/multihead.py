"""nn.MultiheadAttention made audible: torch's own code, with what it computes inside shown to a mode."""

from types import FunctionType
from typing import Any

import torch.nn.functional as F


def _audible() -> FunctionType:
    """Torch's `multi_head_attention_forward` without the check that hands the whole of it to a mode.

    A mode is off while it handles a function, so it sees this one and nothing inside. Run again under the
    mode without that check, torch's own code shows its attention to the mode: nothing is computed twice,
    nothing of it is repeated here, and fused attention stays on.
    """
    original = F.multi_head_attention_forward
    without_check = original.__globals__ | {"has_torch_function": lambda _tensors: False}
    function = FunctionType(
        original.__code__, without_check, original.__name__, original.__defaults__, original.__closure__
    )
    function.__kwdefaults__ = original.__kwdefaults__
    return function


audible_multi_head_attention: Any = _audible()
