from pathlib import Path

import numpy as np
import pytest

from tapadl.cli import main
from tapadl.evaluation.benchmark_result import BenchmarkResult, EvaluationResult
from tapadl.evaluation.plan import Cell
from tapadl.evaluation.record import Record

COUNT = 200


def write(path, name, wrong, *, fingerprint="same", severities=(1, 2)):
    """A result of a model that is wrong on the first images of every cell: on so many of them."""
    cells = [Cell("clean"), *(Cell("fog", severity) for severity in severities)]
    records = tuple(Record(cell, {"correct": np.arange(COUNT) >= wrong}, {}) for cell in cells)
    images = {"count": COUNT, "fingerprints": [fingerprint], "num_classes": 10}
    benchmark = BenchmarkResult("embedded-c", "in_memory", images, {}, records)
    model = {"name": name, "weights_sha256": name}
    EvaluationResult("2026-01-01", "tapadl evaluate", {}, {}, model, {"seed": 0}, (benchmark,)).save(path)
    return str(path)


@pytest.fixture
def pair(tmp_path):
    return [write(tmp_path / "a.json", "plain", 80), write(tmp_path / "b.json", "tap", 50)]


def test_table_gives_both_values_the_difference_and_how_sure_it_is(pair, capsys):
    assert main(["compare", *pair]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "Mean corrupted error " in line)
    # 30 of 200 images are right for the second model alone: 2 / 2^30 by McNemar's exact test
    for expected in ("40.0 %", "25.0 %", "−15.00", "<0.001", "right"):
        assert expected in row


def test_equal_models_are_told_apart_by_nothing(tmp_path, capsys):
    files = [write(tmp_path / name, name, 80) for name in ("a.json", "b.json")]
    assert main(["compare", *files]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "Mean corrupted error " in line)
    assert row.split()[-1] == "1.000"


def test_pages_are_written_once(pair, tmp_path, capsys):
    out = tmp_path / "compared"
    assert main(["compare", *pair, "--out", str(out)]) == 0
    assert "plain" in (out / "report.html").read_text()
    assert "plain" in (out / "report.md").read_text()
    (out / "report.html").write_text("mine")
    assert main(["compare", *pair, "--out", str(out)]) == 1
    assert "found one; name another folder" in capsys.readouterr().err
    assert (out / "report.html").read_text() == "mine"
    assert main(["compare", *pair, "--out", str(out), "--overwrite"]) == 0


def test_out_may_name_the_page_and_results_may_be_folders(pair, tmp_path, capsys):
    for name, path in zip(("plain", "tap"), pair, strict=True):
        (tmp_path / name).mkdir()
        Path(path).rename(tmp_path / name / "result.json")
    page = tmp_path / "sub" / "both.html"
    assert main(["compare", str(tmp_path / "plain"), str(tmp_path / "tap"), "--out", str(page)]) == 0
    assert {path.name for path in page.parent.iterdir()} == {"both.html", "both.md"}
    assert capsys.readouterr().out.splitlines()[-1] == f"page: {page}"


def test_benchmark_that_one_lacks_is_refused_by_name(pair, capsys):
    assert main(["compare", *pair, "--benchmark", "imagenet-c"]) == 1
    assert "expected a benchmark out of embedded-c" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [({"fingerprint": "other"}, "fingerprints differ"), ({"severities": (1,)}, "only one was shown (fog/2)")],
)
def test_results_of_other_images_or_conditions_are_refused(pair, tmp_path, capsys, change, message):
    other = write(tmp_path / "c.json", "c", 10, **change)
    assert main(["compare", pair[0], other]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        ("{", "damaged or cut short"),
        ("[]", "expected a JSON object"),
        ('{"kind": "demo", "schema": 1}', "expected a result of tapadl evaluate"),
        ('{"kind": "evaluation", "schema": 1}', "expected a complete result"),
    ],
)
def test_file_that_is_no_result_is_one_sentence(pair, tmp_path, capsys, content, message):
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_text(content)
    assert main(["compare", pair[0], str(path)]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_numbers_changed_by_hand_are_refused(pair, capsys):
    path = Path(pair[1])
    content = path.read_text()
    assert '"error": 0.25' in content
    path.write_text(content.replace('"error": 0.25', '"error": 0.05', 1))
    assert main(["compare", *pair]) == 1
    assert "do not follow from its cells: error" in capsys.readouterr().err


def test_one_result_is_not_compared(pair, capsys):
    assert main(["compare", pair[0]]) == 1
    assert "at least two results" in capsys.readouterr().err
