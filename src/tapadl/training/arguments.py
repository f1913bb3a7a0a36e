"""The words of `tapadl train`: `--config FILE`, and `--SECTION.KEY VALUE` for every setting."""

import difflib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from tapadl.training.arguments_help import help_text
from tapadl.training.setting_values import in_words, shown, typed, value_of_word
from tapadl.training.settings import Settings
from tapadl.training.yaml_text import read_file, write_text

__all__ = ["ALIASES", "dump", "help_text", "known_keys", "parse"]

ALIASES = {"parallel": "training.parallel"}
"""Short names of settings."""

_OPTIONS = "model.options"


def parse(words: Sequence[str]) -> Settings:
    """The settings that a command line asks for.

    Files count first, in their order, wherever `--config` stands; then the other words, in theirs.

    Args:
        words: Such as `["--config", "recipes/NAME.yaml", "--optimizer.lr", "1e-3"]`; `--KEY=VALUE` is the
            same. A value is written as in YAML: `true`, `null`, `[0.5, 1]`, `1e-3`.

    Raises:
        ValueError: If a word, key, value or file is wrong; one sentence.

    Example:
        >>> words = ["--model.name", "deit_tiny_patch16_224", "--data.train=embedded"]
        >>> parse([*words, "--optimizer.lr", "5e-4"]).optimizer.lr
        0.0005
        >>> parse([*words, "--optimizer.lrate", "5e-4"])
        Traceback (most recent call last):
        ValueError: expected a known setting, got --optimizer.lrate; did you mean --optimizer.lr?
    """
    files, overrides = _split(words)
    given: dict[str, Any] = {}
    for path in files:
        given |= _from_file(path)
    for key, word in overrides:
        if key.startswith(f"{_OPTIONS}."):
            option = {key.removeprefix(f"{_OPTIONS}."): value_of_word(word, object)}
            given[_OPTIONS] = given.get(_OPTIONS, {}) | option
        else:
            given[key] = _checked(key, value_of_word(word, known_keys()[key]), f"--{key}")
    for key in ("model.name", "data.train"):
        if key not in given:
            raise ValueError(f"expected {key}, got none; give --{key} VALUE, or a recipe with --config FILE")
    return _settings(given)


def dump(settings: Settings) -> str:
    """The settings as YAML, every key of them; `parse(["--config", FILE])` gives them back."""
    return write_text(settings.to_json())


@functools.cache
def known_keys() -> dict[str, Any]:
    """The type of every setting, by its key.

    Example:
        >>> known_keys()["optimizer.lr"]
        <class 'float'>
    """
    keys: dict[str, Any] = {}
    for section, kind in get_type_hints(Settings).items():
        if is_dataclass(kind):
            keys |= {f"{section}.{name}": hint for name, hint in get_type_hints(kind).items()}
        else:
            keys[section] = kind  # stands at the top, in no section
    return keys


def _split(words: Sequence[str]) -> tuple[list[Path], list[tuple[str, str]]]:
    """The files, and the keys with the words that are their values."""
    files: list[Path] = []
    overrides: list[tuple[str, str]] = []
    remaining = iter(words)
    for word in remaining:
        if not word.startswith("--"):
            raise ValueError(f"expected --KEY VALUE, got {word!r}; a value with spaces needs quotes")
        key, with_value, value = word[2:].partition("=")
        key = ALIASES.get(key, key)
        if key != "config" and not key.startswith(f"{_OPTIONS}."):
            _check_known(key, f"--{key}", prefix="--")
        if not with_value:
            value = next(remaining, "--")
            if value.startswith("--"):
                raise ValueError(f"expected a value after --{key}, got none")
        if key == "config":
            files.append(Path(value))
        else:
            overrides.append((key, value))
    return files, overrides


def _from_file(path: Path) -> dict[str, Any]:
    """The values of a recipe, by dotted key."""
    content = read_file(path)
    if not isinstance(content, dict):
        raise ValueError(f"expected sections with keys in {path}, got {shown(content)}")
    given: dict[str, Any] = {}
    for key, value in _flattened(content, path):
        if key in given:
            raise ValueError(f"expected {key} once in {path}, got it twice")
        _check_known(key, f"{key} in {path}")
        given[key] = _checked(key, value, f"{key} in {path}")
    return given


def _flattened(content: dict[Any, Any], path: Path) -> Iterator[tuple[str, Any]]:
    for section, values in content.items():
        if section not in get_type_hints(Settings) or section in known_keys():
            yield str(section), values
        elif isinstance(values, dict):
            yield from ((f"{section}.{name}", value) for name, value in values.items())
        elif values is not None:  # null is a section whose keys are all commented out
            raise ValueError(f"expected keys with values under {section} in {path}, got {shown(values)}")


def _check_known(key: str, where: str, prefix: str = "") -> None:
    """Refuse an unknown key with the nearest known one: one of the same last name, if there is any."""
    if key in known_keys():
        return
    name = key.rpartition(".")[2]
    namesakes = [known for known in known_keys() if known.rpartition(".")[2] == name]
    near = difflib.get_close_matches(key, namesakes, n=1, cutoff=0)
    sections = () if prefix else get_type_hints(Settings)
    near = near or difflib.get_close_matches(key, [*sections, *known_keys()], n=1)
    hint = f"did you mean {prefix}{near[0]}?" if near else "tapadl train --help lists them all"
    raise ValueError(f"expected a known setting, got {where}; {hint}")


def _checked(key: str, value: Any, where: str) -> Any:
    hint = known_keys()[key]
    try:
        return typed(value, hint)
    except TypeError:
        raise ValueError(f"expected {where} to be {in_words(hint)}, got {shown(value)}") from None


def _settings(given: dict[str, Any]) -> Settings:
    sections: dict[str, dict[str, Any]] = {}
    top: dict[str, Any] = {}
    for key, value in given.items():
        section, _, name = key.partition(".")
        if name:
            sections.setdefault(section, {})[name] = value
        else:
            top[key] = value
    kinds = get_type_hints(Settings)
    return Settings(**top, **{section: kinds[section](**values) for section, values in sections.items()})
