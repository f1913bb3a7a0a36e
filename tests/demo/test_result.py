import dataclasses
import json

import pytest

from tapadl.data.json_file import load_json
from tapadl.demo.result import CellResult, DemoResult, RunResult, load_run, save_run


def make_run(variant="plain", seed=0, shift=0, corruptions=("gaussian_noise", "fog", "contrast")):
    cells = [CellResult("clean", 0, 10 + shift, 100)]
    for place, name in enumerate(corruptions):
        cells += [CellResult(name, severity, 10 * place + severity + shift, 100) for severity in (1, 5)]
    return RunResult(
        variant=variant,
        seed=seed,
        parameters=7,
        epochs=1.5,
        steps=3,
        training_seconds=2.0,
        step_seconds=0.5,
        weights_sha256="ab",
        validation_error=0.125,
        cells=tuple(cells),
        curve=({"step": 3, "loss": 1.5, "learning_rate": 0.0},),
    )


def make_demo(runs):
    return DemoResult("2026-01-01T00:00:00+00:00", "tapadl demo", {"torch": "2"}, {}, {}, {}, tuple(runs))


def test_errors_are_means_over_corruptions_then_severities():
    run = make_run()
    assert run.clean_error == 0.1
    assert run.mean_corruption_error == pytest.approx((0.03 + 0.13 + 0.23) / 3)
    assert run.groups == pytest.approx({"noise": 0.03, "weather": 0.13, "digital": 0.23})


def test_summary_gives_mean_sample_deviation_and_number():
    summary = make_demo([make_run(seed=0), make_run(seed=1, shift=2)]).summary["plain"]["clean_error"]
    assert summary["mean"] == pytest.approx(0.11)
    assert summary["std"] == pytest.approx(0.02 / 2**0.5)
    assert summary["n"] == 2


def test_one_seed_has_no_spread():
    assert make_demo([make_run()]).summary["plain"]["clean_error"] == {"mean": 0.1, "std": None, "n": 1}


def test_differences_pair_runs_of_the_same_seed():
    runs = [
        make_run(seed=0),
        make_run(seed=1, shift=30),
        make_run("tap", 0, shift=-1),
        make_run("tap", 1, shift=29),
    ]
    paired = make_demo(runs).paired
    assert list(paired) == ["tap"]
    assert paired["tap"]["mean_corruption_error"]["mean"] == pytest.approx(-0.01)
    assert paired["tap"]["mean_corruption_error"]["std"] == pytest.approx(0, abs=1e-12)


def test_seeds_without_a_plain_run_are_left_out_of_the_differences():
    paired = make_demo([make_run(seed=0), make_run("tap", 0), make_run("tap", 1)]).paired
    assert paired["tap"]["clean_error"]["n"] == 1
    assert make_demo([make_run("tap", 0)]).paired == {}


def test_demo_survives_its_file(tmp_path):
    demo = make_demo([make_run(), make_run("tap", shift=1)])
    demo.save(tmp_path / "results.json")
    content = load_json(tmp_path / "results.json")
    assert (content["schema"], content["kind"]) == (1, "demo")
    assert content["summary"]["tap"]["clean_error"]["mean"] == 0.11
    assert DemoResult.load(tmp_path / "results.json") == demo


def test_run_survives_its_file(tmp_path):
    save_run(make_run(), tmp_path / "run.json", job="a")
    assert load_run(tmp_path / "run.json", job="a") == make_run()


def test_run_of_another_job_is_refused(tmp_path):
    save_run(make_run(), tmp_path / "run.json", job="a")
    with pytest.raises(ValueError, match="expected a run of this job"):
        load_run(tmp_path / "run.json", job="b")


@pytest.mark.parametrize(
    "change",
    [
        {"cells": None}, {"cells": [None]}, {"training_seconds": None}, {"curve": [None]},
        {"curve": [{"step": 1, "loss": None}]}, {"variant": 3}, {"attention": None},
        {"validation_error": float("nan")},
    ],
)  # fmt: skip
def test_damaged_run_is_one_error_that_names_the_file(tmp_path, change):
    path = tmp_path / "run.json"
    save_run(make_run(), path, job="a")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=r"run\.json"):
        load_run(path, job="a")


def test_folder_in_place_of_a_file_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"expected a file at .*, got a folder"):
        load_json(tmp_path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "damaged or cut short"),
        ("[1]", "expected a JSON object"),
        ("{}", "expected a demo result of schema 1 .*got kind None"),
        ('{"kind": "demo", "schema": 2}', "got kind 'demo' and schema 2"),
        ('{"kind": "demo", "schema": 1}', "complete demo result .*no 'created'"),
        (b"\xff\xfe\x00", "damaged"),
    ],
)
def test_foreign_or_damaged_file_is_one_sentence_that_names_it(tmp_path, content, problem):
    path = tmp_path / "other.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=problem) as raised:
        DemoResult.load(path)
    assert "other.json" in str(raised.value)


def test_run_with_impossible_counts_is_refused(tmp_path):
    save_run(make_run(), tmp_path / "run.json", job="a")
    content = json.loads((tmp_path / "run.json").read_text())
    content["cells"][0]["errors"] = 101
    (tmp_path / "run.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"complete run in .*101 of 100; remove it"):
        load_run(tmp_path / "run.json", job="a")


def test_file_of_another_kind_is_no_run(tmp_path):
    make_demo([make_run()]).save(tmp_path / "results.json")
    with pytest.raises(ValueError, match="expected a run of schema 1"):
        load_run(tmp_path / "results.json", job="a")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        DemoResult.load(tmp_path / "none.json")


def test_run_without_a_corrupted_cell_is_refused():
    with pytest.raises(ValueError, match="a clean and a corrupted cell"):
        dataclasses.replace(make_run(), cells=make_run().cells[:1])
