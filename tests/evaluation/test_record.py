import json

import numpy as np
import pytest

from tapadl.evaluation.plan import Cell
from tapadl.evaluation.record import Record, UnitFile

FOG = Cell("fog", 3)


def record(cell=FOG, count=11, seed=0):
    random = np.random.default_rng(seed)
    return Record(
        cell, {"correct": random.random(count) < 0.5}, {"calibration": random.integers(0, 9, (3, 2))}
    )


def same(first, second):
    return (
        first.cell == second.cell
        and all((first.items[name] == second.items[name]).all() for name in first.items)
        and all((first.totals[name] == second.totals[name]).all() for name in first.totals)
    )


@pytest.mark.parametrize("count", [1, 7, 8, 9])
def test_record_survives_json_to_the_bit(count):
    before = record(count=count)
    after = Record.from_json(json.loads(json.dumps(before.to_json())))
    assert same(before, after)
    assert after.items["correct"].dtype == bool


def test_counts_above_a_byte_survive_json():
    before = Record(Cell("tilt"), {"distance": np.array([3, 540], dtype=np.uint16)}, {})
    assert Record.from_json(json.loads(json.dumps(before.to_json()))).items["distance"].tolist() == [3, 540]


def test_joined_records_keep_the_order_and_add_up():
    first, second = record(count=3, seed=1), record(count=4, seed=2)
    joined = Record.join([first, second])
    assert joined.items["correct"].tolist() == [*first.items["correct"], *second.items["correct"]]
    assert (joined.totals["calibration"] == first.totals["calibration"] + second.totals["calibration"]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "bool", "base64": "AAAA"}, "expected bits of 11 images, got 24"),
        ({"dtype": "uint16", "base64": "AAAA"}, "buffer size|multiple of element size"),
        ({"dtype": "uint8", "base64": "AAAA"}, "expected counts of 11 images, got 3"),
        ({"dtype": "object", "base64": "AAAA"}, "got 'object'"),
        ({"dtype": "bool", "base64": "?"}, "base64|padding"),
    ],
)
def test_items_that_are_no_counts_of_the_images_are_refused(change, message):
    content = record().to_json()
    content["items"]["correct"] = change
    with pytest.raises(ValueError, match=message):
        Record.from_json(content)


def test_unit_file_gives_back_what_was_added(tmp_path):
    file = UnitFile(tmp_path / "units" / "a.jsonl")
    records = [record(Cell("fog", severity), seed=severity) for severity in (1, 2)]
    for one in records:
        file.add(one)
    again = UnitFile(file.path)
    assert list(again.records) == [Cell("fog", 1), Cell("fog", 2)]
    assert all(same(one, again.records[one.cell]) for one in records)


@pytest.mark.parametrize("left", range(1, 60, 7))
def test_line_cut_short_does_not_count_and_the_next_one_is_whole(tmp_path, left):
    file = UnitFile(tmp_path / "a.jsonl")
    file.add(record(Cell("fog", 1)))
    whole = len(file.path.read_bytes())
    file.add(record(Cell("fog", 2)))
    file.path.write_bytes(file.path.read_bytes()[: whole + left])
    again = UnitFile(file.path)
    assert list(again.records) == [Cell("fog", 1)]
    again.add(record(Cell("fog", 2)))
    assert list(UnitFile(file.path).records) == [Cell("fog", 1), Cell("fog", 2)]


def test_damaged_line_is_named_with_its_file(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"condition": 3}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl, got a damaged line"):
        UnitFile(path)


def test_record_that_cannot_be_written_names_the_file(tmp_path):
    (tmp_path / "units").write_text("")
    with pytest.raises(OSError, match=r"could not write .*a\.jsonl"):
        UnitFile(tmp_path / "units" / "a.jsonl").add(record())
