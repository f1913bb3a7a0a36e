"""The values of settings: from a word or from YAML to the type of the setting."""

import functools
import json
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from tapadl.training.yaml_text import read_value

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
    dict: "names with values",
    NoneType: "null",
}
_PLURALS = {int: "whole numbers", float: "numbers", str: "texts"}
_LONGEST_SHOWN = 60


def value_of_word(word: str, hint: Any) -> Any:
    """What a word of a command line stands for, where a setting of type `hint` is expected.

    It is read as YAML, but texts need no quotes.

    Example:
        >>> value_of_word("1e-3", float), value_of_word("1e-3", str), value_of_word("null", str | None)
        (0.001, '1e-3', None)
    """
    alternatives = _alternatives(hint)
    if NoneType in alternatives and word == "null":
        return None
    if any(kind in (str, Path) or get_origin(kind) is Literal for kind in alternatives):
        return word
    try:
        return read_value(word)
    except ValueError:
        return word


def typed(value: Any, hint: Any) -> Any:
    """A value of YAML as the type of its setting: lists become tuples, whole numbers floats.

    Raises:
        TypeError: If it does not fit.

    Example:
        >>> typed([1, 0.5], tuple[float, float])
        (1.0, 0.5)
    """
    from jsonargparse import ArgumentError

    alternatives = _alternatives(hint)
    # left to jsonargparse, null would fit everything, and the texts "null" and "3" become what they spell
    if value is None or isinstance(value, (str, dict)):
        kinds = [get_origin(kind) or kind for kind in alternatives]
        if type(value) in kinds:
            return value
        if value is None:
            raise TypeError
        if Path in kinds and isinstance(value, str):
            return Path(value)
    try:
        return _parser_of(hint).parse_object({"value": value}).value
    except ArgumentError:
        raise TypeError from None


def in_words(hint: Any) -> str:
    """What may be given where a setting has this type.

    Example:
        >>> in_words(tuple[float, float] | None)
        'a list of 2 numbers or null'
    """
    return " or ".join(_kind_in_words(kind) for kind in _alternatives(hint))


def shown(value: Any) -> str:
    """A value of YAML in a message; a long one is cut.

    Example:
        >>> shown([None, "a"])
        '[null, "a"]'
    """
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


@functools.cache
def _parser_of(hint: Any) -> "ArgumentParser":
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--value", type=hint)
    return parser


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _kind_in_words(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(arguments)}"
    if origin is tuple:
        count = "" if arguments[-1] is Ellipsis else f"{len(arguments)} "
        return f"a list of {count}{_PLURALS[arguments[0]]}"
    return _NAMES[origin or kind]
