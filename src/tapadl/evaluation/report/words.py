"""Numbers and names as pages write them."""

from collections.abc import Mapping
from typing import Any


def corruption_label(name: str) -> str:
    """How pages call a corruption, perturbation, attack or group.

    Example:
        >>> corruption_label("jpeg_compression"), corruption_label("fgsm")
        ('JPEG compression', 'FGSM')
    """
    if name in _NAMES:
        return _NAMES[name]
    text = name.replace("_", " ")
    return "JPEG" + text[4:] if text.startswith("jpeg") else text[:1].upper() + text[1:]


_NAMES = {"fgsm": "FGSM", "pgd": "PGD", "autoattack": "AutoAttack"}


def percent(fraction: float) -> str:
    """A fraction in percent with one place.

    Example:
        >>> percent(0.2345)
        '23.4'
    """
    return f"{round(100 * fraction, 1) + 0.0:.1f}"  # no -0.0


def signed(value: float, places: int) -> str:
    """A number with its sign, a true minus, and no sign on what rounds to zero.

    Example:
        >>> signed(-2.61, 1), signed(0.01, 1)
        ('−2.6', '0.0')
    """
    text = f"{abs(value):.{places}f}"
    if float(text) == 0:
        return text
    return ("−" if value < 0 else "+") + text


def duration(seconds: float) -> str:
    """A time for people.

    Example:
        >>> duration(42.4), duration(200)
        ('42 s', '3 min 20 s')
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def milliseconds(seconds: float) -> str:
    """A short time for people.

    Example:
        >>> milliseconds(0.0414)
        '41 ms'
    """
    return f"{1000 * seconds:.0f} ms"


def fact_lines(content: Mapping[str, Any], prefix: str = "", *, none: str = "all") -> list[tuple[str, str]]:
    """Nested settings as lines of name and text; `none` is written for None.

    Example:
        >>> fact_lines({"seed": 0, "attack": {"norm": "linf", "steps": None}, "severities": [1, 2]})
        [('seed', '0'), ('attack: norm', 'linf'), ('attack: steps', 'all'), ('severities', '1, 2')]
    """
    lines: list[tuple[str, str]] = []
    for name, value in content.items():
        key = f"{prefix}{name}".replace("_", " ")
        if isinstance(value, Mapping):
            lines += fact_lines(value, f"{key}: ", none=none)
        elif isinstance(value, list | tuple):
            lines.append((key, ", ".join(map(str, value))))
        else:
            lines.append((key, none if value is None else str(value)))
    return lines
