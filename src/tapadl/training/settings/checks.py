"""Checks of settings, in sentences that name the key as it stands in a recipe."""

import math
from collections.abc import Collection
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from tapadl.ops.numbers import is_number


@dataclass(frozen=True)
class Interval:
    """A range of numbers.

    Args:
        low: Its lower end.
        high: Its upper end.
        without_low: Whether the lower end itself lies outside.
        without_high: Whether the upper end itself lies outside.

    Example:
        >>> print(Interval(0, 1, without_high=True))
        at least 0 and below 1
        >>> 1 in Interval(0, 1, without_high=True)
        False
    """

    low: float = -math.inf
    high: float = math.inf
    without_low: bool = False
    without_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.without_low else value >= self.low
        below = value < self.high if self.without_high else value <= self.high
        return math.isfinite(value) and above and below

    def __str__(self) -> str:
        ends = []
        if self.low > -math.inf:
            ends.append(f"{'above' if self.without_low else 'at least'} {self.low:.10g}")
        if self.high < math.inf:
            ends.append(f"{'below' if self.without_high else 'at most'} {self.high:.10g}")
        return " and ".join(ends) or "a finite number"


POSITIVE = Interval(0, without_low=True)
AT_LEAST_0 = Interval(0)
AT_LEAST_1 = Interval(1)
FRACTION = Interval(0, 1)
INSIDE_FRACTION = Interval(0, 1, without_low=True, without_high=True)


def section_of(settings: object) -> str:
    """The section of a recipe that a settings class stands for: `OptimizerSettings` -> `optimizer`."""
    return type(settings).__name__.removesuffix("Settings").lower()


def refuse(settings: object, name: str, expected: str) -> ValueError:
    """The error of a field: what was expected, what came."""
    value = to_plain(settings)[name]
    return ValueError(f"expected {section_of(settings)}.{name} {expected}, got {value!r}")


def check_numbers(settings: object, interval: Interval, *names: str) -> None:
    """Check that the named fields, or each number in them, lie in an interval; None is left alone.

    Raises:
        ValueError: If one does not.
    """
    for name in names:
        value = getattr(settings, name)
        numbers = value if isinstance(value, tuple) else () if value is None else (value,)
        if not all(is_number(number) and number in interval for number in numbers):
            raise refuse(settings, name, f"to be {interval}")


def check_ascending(settings: object, *names: str) -> None:
    """Check that pairs (low, high) are in this order.

    Raises:
        ValueError: If one is not.
    """
    for name in names:
        low, high = getattr(settings, name)
        if low > high:
            raise refuse(settings, name, "as the lower and the upper end")


def check_choices(settings: object) -> None:
    """Check every field that offers a choice.

    Raises:
        ValueError: If a value is none of those offered.
    """
    for name, hint in get_type_hints(type(settings)).items():
        if get_origin(hint) is Literal and getattr(settings, name) not in get_args(hint):
            raise refuse(settings, name, f"to be one of {', '.join(get_args(hint))}")


def check_named(settings: object, *names: str) -> None:
    """Check that texts are not empty; None is left alone.

    Raises:
        ValueError: If one is.
    """
    for name in names:
        if getattr(settings, name) == "":
            raise refuse(settings, name, "not to be empty")


def check_distinct(settings: object, *names: str) -> None:
    """Check that nothing stands twice in a list; None is left alone.

    Raises:
        ValueError: If something does.
    """
    for name in names:
        values: Collection[Any] = getattr(settings, name) or ()
        if len(set(values)) < len(values):
            raise refuse(settings, name, "to have everything once")


def to_plain(settings: object) -> dict[str, Any]:
    """The fields of a section as plain data: lists instead of tuples, texts instead of paths."""
    return {item.name: _plain(getattr(settings, item.name)) for item in fields(settings)}  # type: ignore[arg-type]


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value
