import copy
import json

import pytest

from tapadl.tasks.segmentation.evaluation.report import render_text
from tapadl.tasks.segmentation.evaluation.result import SegmentationResult


@pytest.fixture
def content(make_result):
    return json.loads(json.dumps(make_result(count=3, cells=[("clean", 0), ("fog", 2)]).to_json()))


def load(content, tmp_path):
    path = tmp_path / "result.json"
    path.write_text(json.dumps(content))
    return SegmentationResult.load(path)


def test_what_is_saved_is_read_again(make_result, tmp_path):
    result = make_result()
    result.save(tmp_path / "result.json")
    again = SegmentationResult.load(tmp_path / "result.json")
    assert again.to_json() == result.to_json()
    assert again.benchmarks[0].metrics["miou"] > again.benchmarks[0].metrics["mean_corrupted_miou"] > 0


def test_predictions_without_labels_are_a_result_without_numbers(make_result, tmp_path):
    result = make_result(labelled=False, cells=[("clean", 0)], form="stored")
    again = load(result.to_json(), tmp_path)
    assert not again.benchmarks[0].labelled
    assert again.benchmarks[0].metrics == {}


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("metrics", "miou"), 0.99),
        (("metrics", "better"), 0.99),
        (("iou", "clean", 1), 0.99),
        (("cells", 1, "miou"), 0.99),
        (("cells", 1, "miou"), None),
        (("cells", 1, "totals", "confusion", 0, 0), 9999),
        (("cells", 1, "severity"), 0),
    ],
)
def test_numbers_changed_by_hand_are_refused(content, tmp_path, place, value):
    inner = content["benchmarks"][0]
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(ValueError, match=r"expected a complete result .* (follow from|once)"):
        load(content, tmp_path)


def test_counts_of_another_result_are_refused(content, make_result, tmp_path):
    other = make_result(count=3, error=0.3, cells=[("clean", 0), ("fog", 2)]).to_json()
    content["benchmarks"][0]["cells"][0]["items"] = other["benchmarks"][0]["cells"][0]["items"]
    with pytest.raises(ValueError, match="does not follow from the counts of clean"):
        load(content, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "float64"}, "uint32 or int64"),
        ({"shape": [3, 2, 3]}, r"an array of shape \(3, 2, 3\)"),
        ({"shape": [4, 3, 3]}, r"an array of shape \(4, 3, 3\)"),
        ({"shape": [9, 3]}, "counts of 3 images, got 9"),
        ({"shape": [3, 9]}, r"counts of shape \(3, 9\)"),
        ({"zlib": "AAAA"}, "compressed array"),
        ({"shape": [-3, -3, 3]}, "an array of shape"),
    ],
)
def test_damaged_arrays_are_refused(content, tmp_path, change, message):
    content["benchmarks"][0]["cells"][0]["items"]["pixels"] |= change
    with pytest.raises(ValueError, match=message):
        load(content, tmp_path)


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


@pytest.mark.parametrize("value", [None, -1, "x", [], {}, True, 10**30, ...], ids=repr)
def test_a_spoilt_result_is_refused_in_a_sentence_or_can_be_shown(content, value, tmp_path):
    for place in places(content):
        spoilt = changed(content, place, value)
        refusal = refusal_of(spoilt, tmp_path)
        if refusal is not None:
            assert refusal.startswith("expected")
            assert "result.json" in refusal
            assert "\n" not in refusal
        else:
            assert render_text([load(spoilt, tmp_path)], None)


def refusal_of(content, tmp_path):
    try:
        load(content, tmp_path)
    except ValueError as error:
        return str(error)
    return None


def test_other_kinds_of_results_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"task segmentation, schema 1, in .* got kind 'evaluation'"):
        load({"kind": "evaluation", "schema": 1}, tmp_path)
