import copy
import json

import pytest

from tapadl.evaluation.benchmark_result import EvaluationResult
from tapadl.evaluation.compare import compare
from tapadl.evaluation.report import render_text


@pytest.fixture
def content(make_benchmark, make_result):
    benchmark = make_benchmark(count=10, corruptions=("fog",), severities=(1, 2), attacks=("pgd",))
    return json.loads(json.dumps(make_result(benchmark, make_benchmark("imagenet-p", count=10)).to_json()))


def places(value, place=()):
    """Every place in nested data, but not in the numbers of a list."""
    if place:
        yield place
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from places(inner, (*place, name))
    elif isinstance(value, list) and value and not isinstance(value[0], (int, float)):
        yield from places(value[0], (*place, 0))


def changed(content, place, value):
    """A copy with another value at a place; without it where the value is ..."""
    copied = copy.deepcopy(content)
    *above, last = place
    inner = copied
    for name in above:
        inner = inner[name]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return copied


@pytest.mark.parametrize("value", [None, -1, "x", [], {}, True, 10**30, 1.5, ...], ids=repr)
def test_a_spoilt_result_is_refused_in_a_sentence_or_can_be_shown(content, value, tmp_path):
    path = tmp_path / "result.json"
    for place in places(content):
        path.write_text(json.dumps(changed(content, place, value)))
        refusal = refusal_of(path)
        if refusal is not None:
            assert refusal.startswith("expected")
            assert str(path) in refusal
            assert "\n" not in refusal
        else:
            assert render_text([EvaluationResult.load(path)], None)


def refusal_of(path):
    try:
        EvaluationResult.load(path)
    except ValueError as error:
        return str(error)
    return None


def test_the_place_that_is_wrong_is_named(content, tmp_path):
    path = tmp_path / "result.json"
    path.write_text(json.dumps(changed(content, ("benchmarks", 0, "cells", 0, "severity"), "high")))
    with pytest.raises(
        ValueError, match="whole number as severity of number 1 of cells of number 1 of benchmarks"
    ):
        EvaluationResult.load(path)


def test_what_says_more_than_is_known_is_read(content, tmp_path):
    path = tmp_path / "result.json"
    path.write_text(json.dumps({**content, "remark": "measured on a Sunday"}))
    again = EvaluationResult.load(path)
    assert compare([again, again]).by_benchmark
