import errno
import json
import os
from pathlib import Path

import pytest

from tapadl.training.log import RunLog


@pytest.fixture
def log(tmp_path):
    return RunLog(tmp_path / "log.jsonl")


def test_every_line_is_strict_json_whatever_the_numbers(log, tmp_path):
    log.write("train", 2, {"loss": float("nan"), "norm": float("inf"), "lr": 1e-3, "name": "é"})

    def refuse(constant):
        raise AssertionError(constant)

    (text,) = (tmp_path / "log.jsonl").read_text("utf-8").splitlines()
    line = json.loads(text, parse_constant=refuse)
    assert line == {"step": 2, "kind": "train", "loss": None, "norm": None, "lr": 1e-3, "name": "é"}
    assert log.lines() == [line]


def test_there_are_no_lines_without_a_file(log):
    assert log.lines() == []
    log.go_back(3)
    assert log.lines() == []


def test_half_a_line_and_what_is_none_is_not_there(log, tmp_path):
    log.write("train", 1, {"loss": 2.0})
    with (tmp_path / "log.jsonl").open("ab") as file:
        file.write(b'3\n[1]\n{"kind": "train"}\n{"step": 3}\n\xff\xfe\n{"step": 2, "kind": "tr')
    assert log.lines() == [{"step": 1, "kind": "train", "loss": 2.0}]


def test_going_back_drops_what_came_after_a_checkpoint_and_its_evaluation(log):
    for step in (1, 2, 3):
        log.write("train", step, {"loss": 1 / step})
        log.write("evaluation", step, {"top1": step})
    log.go_back(2)
    assert [(line["step"], line["kind"]) for line in log.lines()] == [
        (1, "train"),
        (1, "evaluation"),
        (2, "train"),
    ]
    assert log.lines()[1] == {"step": 1, "kind": "evaluation", "top1": 1}
    log.write("train", 3, {"loss": 0.1})
    assert log.lines()[-1] == {"step": 3, "kind": "train", "loss": 0.1}


def test_after_half_a_line_the_next_one_is_whole_again(log, tmp_path):
    log.write("train", 1, {"loss": 2.0})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 2, "kind": "tr')
    log.go_back(1)
    log.write("train", 2, {"loss": 1.0})
    assert [line["step"] for line in log.lines()] == [1, 2]
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2


def test_a_run_that_begins_anew_has_no_lines_of_another(log):
    log.write("train", 1, {"loss": 2.0})
    log.go_back(0)
    assert log.lines() == []


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=r"^could not write .*folder: Is a directory$"):
        RunLog(tmp_path / "folder").write("train", 1, {})


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_sentence():
    with pytest.raises(OSError, match=f"^could not write /dev/full: {os.strerror(errno.ENOSPC)}$"):
        RunLog(Path("/dev/full")).write("train", 1, {"loss": 1.0})
