"""YAML as people write it: `1e-3` is a number, and a key that stands twice is an error."""

import re
from pathlib import Path
from typing import Any

import yaml

# PyYAML reads YAML 1.1, to which 1e-3 is a text: it wants a point and a sign, 1.0e-3.
_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
_FLOAT_STARTS = list("-+.0123456789")


class _Loader(yaml.SafeLoader):
    """Safe, with such numbers, and no key twice."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if (key.tag, str(key.value)) in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value} stands twice", problem_mark=key.start_mark)
            seen.add((key.tag, str(key.value)))
        mapping: yaml.MappingNode = node
        return mapping


class _Dumper(yaml.SafeDumper):
    """Quotes the texts that the loader would take for numbers; lists stand in one line."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_list(self, data: Any) -> yaml.SequenceNode:
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True)

    def represent_str(self, data: str) -> yaml.ScalarNode:
        # PyYAML writes these line breaks as they are, and reads them as spaces
        style = '"' if set(data) & set("\x85\u2028\u2029") else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style)


for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, _FLOAT_STARTS)
_Dumper.add_representer(list, _Dumper.represent_list)
_Dumper.add_representer(str, _Dumper.represent_str)


def read_value(text: str) -> Any:
    """The value that a piece of YAML stands for.

    Raises:
        ValueError: If it is no YAML; says what is wrong, and in which line.

    Example:
        >>> read_value("[1e-3, true, null]")
        [0.001, True, None]
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f" in line {mark.line + 1}" if mark is not None else ""
        raise ValueError(f"{error.problem or error.context}{line}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from None


def read_file(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        ValueError: If there is no such file, or it is no YAML.
    """
    try:
        return read_value(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"expected a file of settings at {path}, found none") from None
    except OSError as error:
        raise ValueError(f"could not read the settings in {path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"expected YAML in {path}, but it is broken: {error}") from None


def write_text(content: Any) -> str:
    """Plain data as YAML that `read_value` reads back.

    Example:
        >>> print(write_text({"optimizer": {"name": "1e-3", "betas": [0.9, 1e-3]}}), end="")
        optimizer:
          name: '1e-3'
          betas: [0.9, 0.001]
    """
    text: str = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    return text
