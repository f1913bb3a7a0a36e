import math
from pathlib import Path

import pytest
import yaml

from tapadl.training.yaml_text import read_file, read_value, write_text


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "+1e-3", "1.e-3", ".1e-2", "1.0e-3", "0.001"])
def test_a_number_with_an_exponent_is_a_number_however_it_is_written(text: str) -> None:
    assert read_value(text) == 0.001
    assert read_value(f"{{lr: {text}}}") == {"lr": 0.001}


def test_plain_yaml_would_take_such_a_number_for_a_text() -> None:
    assert yaml.safe_load("1e-3") == "1e-3"


@pytest.mark.parametrize("text", ["1e", "e3", "1e-3x", "rand-m9-mstd0.5-inc1", "wds/a-{0..9}.tar", "'1e-3'"])
def test_what_only_looks_like_a_number_stays_a_text(text: str) -> None:
    assert read_value(text) == text.strip("'")


@pytest.mark.parametrize(
    "text",
    ["1e-3", "5", "null", "true", "1:30", "", " a", "a: b", "\x01", "é", "\x85", "a\u2028b", "a\nb", "- a"],
)
def test_texts_come_back_as_texts(text: str) -> None:
    content = {"key": text, "list": [text]}
    assert read_value(write_text(content)) == content


@pytest.mark.parametrize("number", [0.1, 1e-45, -1e300, 5e-324, 1e16, 123456789.125, 0.0, math.inf])
def test_numbers_come_back_bit_for_bit(number: float) -> None:
    back = read_value(write_text([number]))
    assert back == [number]
    assert type(back[0]) is float


def test_a_value_that_stands_at_two_places_is_written_out_twice() -> None:
    shared = [1, 2]
    assert write_text({"a": shared, "b": shared}) == "a: [1, 2]\nb: [1, 2]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2\n", "c stands twice in line 4"),
        ("a: 1\na: 2", "a stands twice in line 2"),
        ("a: [1, 2", "line 1"),
        ("a: 1\n\tb: 2", "line 2"),
        ("!!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("a: \x00", "unacceptable character"),
        ("{[1]: 2}", "unhashable key in line 1"),
    ],
)
def test_broken_yaml_is_told_in_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"expected YAML in .*broken.yaml, but it is broken: ") as refused:
        read_file(path)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_same_key_in_two_sections_is_no_repetition() -> None:
    assert read_value("a: {name: x}\nb: {name: y}") == {"a": {"name": "x"}, "b": {"name": "y"}}


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a file of settings at .*missing.yaml, found none"):
        read_file(tmp_path / "missing.yaml")
    with pytest.raises(ValueError, match=r"could not read the settings in .*: Is a directory"):
        read_file(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"expected YAML in .*binary.yaml, but it is broken: 'utf-8'"):
        read_file(tmp_path / "binary.yaml")
