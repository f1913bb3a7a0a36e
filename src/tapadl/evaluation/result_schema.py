"""What the JSON of an evaluation holds: names, and the kind of value at each."""

from collections.abc import Mapping
from types import NoneType
from typing import Any

Kind = type | tuple[type, ...] | Mapping[str, Any] | list[Any]
"""Of a value: types; of an object the kinds by name, those with ? may be missing; of a list that of each."""

CELL = {"condition": str, "severity": int, "count": int, "items": dict, "totals": dict}
BENCHMARK = {
    "benchmark": str,
    "form": str,
    "images": {"count": int, "num_classes": int, "fingerprints": [str], "subset?": (int, NoneType)},
    "notes": {"image_size?": [int], "constants_of_size?": int, "lengths_scaled?": bool, "frost?": str},
    "metrics": dict,
    "cells": [CELL],
}
RESULT = {
    "created": str,
    "command": str,
    "versions": dict,
    "hardware": dict,
    "model": {"name": str, "weights_sha256": str},
    "settings": {"seed?": int, "attack?": {"eps": (int, float), "norm": str, "steps": int}},
    "benchmarks": [BENCHMARK],
}

_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", NoneType: "null"}


def check_kind(value: Any, kind: Kind, place: str = "the result") -> None:
    """Raise ValueError, which names the place, unless a value is of a kind.

    Example:
        >>> check_kind({"name": "vit"}, {"name": str, "tap?": str})
        >>> check_kind({"name": 3}, {"name": str})
        Traceback (most recent call last):
        ValueError: expected text as name of the result, got 3
    """
    if isinstance(kind, Mapping):
        if not isinstance(value, dict):
            raise ValueError(f"expected an object as {place}, got {_shown(value)}")
        for name, inner in kind.items():
            known = name.removesuffix("?")
            if known in value:
                check_kind(value[known], inner, f"{known} of {place}")
            elif known == name:
                raise ValueError(f"no {name} of {place}")
    elif isinstance(kind, list):
        if not isinstance(value, list):
            raise ValueError(f"expected a list as {place}, got {_shown(value)}")
        for number, one in enumerate(value, 1):
            check_kind(one, kind[0], f"number {number} of {place}")
    else:
        kinds = kind if isinstance(kind, tuple) else (kind,)
        # true is an int to Python
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            words = " or ".join(_WORDS.get(one, "an object") for one in kinds)
            raise ValueError(f"expected {words} as {place}, got {_shown(value)}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
