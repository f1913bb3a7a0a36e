"""What counts as a number in an argument, while torch compiles or traces too."""

import numbers
from typing import Any

import torch


def is_integer(value: Any) -> bool:
    """Whether the value is an integer, of Python, NumPy or a compiler.

    Example:
        >>> is_integer(3), is_integer(3.0), is_integer(None), is_integer(True)
        (True, False, False, False)
    """
    if isinstance(value, bool):
        return False
    return isinstance(value, (int, torch.SymInt, numbers.Integral)) or _is_traced(value)


def is_number(value: Any) -> bool:
    """Whether the value is a real number, of Python, NumPy or a compiler.

    Example:
        >>> is_number(3), is_number(3.0), is_number(None), is_number("3")
        (True, True, False, False)
    """
    if isinstance(value, bool):
        return False
    real = (int, float, torch.SymInt, torch.SymFloat, numbers.Real)
    return isinstance(value, real) or _is_traced(value)


def _is_traced(value: Any) -> bool:
    # A tracer hands out sizes, and what is computed from them, as tensors.
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return tracing and isinstance(value, torch.Tensor)
