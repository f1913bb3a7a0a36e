import importlib

import pytest

from tapadl.data.json_file import load_json


@pytest.fixture
def summary(monkeypatch, request):
    monkeypatch.syspath_prepend(request.config.rootpath / "studies")
    return importlib.import_module("text_summary")


def test_table_of_the_document_is_that_of_the_committed_results(summary):
    text, results = summary.DOCUMENT.read_text(), load_json(summary.RESULTS)
    assert summary.table(results) in text
    assert summary.with_table(text, results) == text


def test_committed_summary_follows_from_the_committed_runs(summary, monkeypatch):
    pytest.importorskip("transformers")
    results = load_json(summary.RESULTS)
    assert importlib.import_module("text").summarise(results["runs"]) == {
        "summary": results["summary"],
        "paired": results["paired"],
    }


def test_table_shows_percent_with_spread_and_signed_differences(summary):
    metrics = {name: {"mean": 0.4567, "std": 0.0123} for name in summary.COLUMNS}
    better = {name: {"mean": -0.0321, "std": None} for name in summary.COLUMNS}
    runs = [{"variant": "plain", "seconds": 10.0}, {"variant": "plain", "seconds": 20.0}]
    table = summary.table({"summary": {"plain": metrics}, "paired": {"adl": better}, "runs": runs})
    rows = table.splitlines()
    assert rows[0].count("|") == rows[1].count("|") == rows[2].count("|")
    assert rows[2].startswith("| plain | 45.7 ± 1.2 |")
    assert rows[2].endswith("| 15 s |")
    assert rows[3].startswith("| ADL - plain | -3.2 ± 0.0 |")
