import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from tapadl.cli import main
from tapadl.evaluation.benchmark_result import EvaluationResult

MODEL = """
import torch
from tapadl.evaluation.preprocessing import Preprocessing

def tiny():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
    return model, Preprocessing((28, 28), (0.286,), (0.353,))

def slow():
    model, preprocessing = tiny()
    model[0].register_forward_hook(lambda *_: __import__("time").sleep(0.3))
    return model, preprocessing
"""
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
QUICK = [
    "--subset",
    "40",
    "--batch-size",
    "16",
    "--workers",
    "0",
    "--device",
    "cpu",
]


@pytest.fixture(autouse=True)
def own_model(tmp_path, monkeypatch):
    (tmp_path / "own_for_evaluate.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def evaluate(*words, model="own_for_evaluate:tiny", benchmark=("embedded-c",)):
    severities = ["--severities", "1", "5"] if any(name.endswith("-c") for name in benchmark) else []
    return main(["evaluate", "--model", model, "--benchmark", *benchmark, *severities, *QUICK, *words])


def cells_of(folder):
    content = json.loads((Path(folder) / "result.json").read_text())
    return [benchmark["cells"] for benchmark in content["benchmarks"]]


def test_an_evaluation_writes_its_result_and_its_pages(capsys):
    assert (
        evaluate("--out", "out", "--corruptions", "fog", "contrast", benchmark=("embedded", "embedded-c"))
        == 0
    )
    printed = capsys.readouterr().out
    assert "result.json" in printed
    result = EvaluationResult.load("out/result.json")
    assert [one.benchmark for one in result.benchmarks] == ["embedded", "embedded-c"]
    assert result.benchmarks[1].form == "in_memory"
    assert result.benchmarks[1].images["count"] == 40
    assert result.command.startswith("tapadl evaluate --model own_for_evaluate:tiny")
    assert "--out" not in result.command
    for name in ("report.html", "report.md"):
        assert Path("out", name).stat().st_size > 500


def test_all_nineteen_corruptions_and_the_mean_over_them():
    assert evaluate("--out", "out", "--corruptions", "all") == 0
    result = EvaluationResult.load("out/result.json")
    assert len(result.benchmarks[0].errors) == 20
    assert "mce" not in result.metrics("embedded-c")


def test_finished_folder_is_not_overwritten_unless_asked(capsys):
    words = ["--out", "out", "--corruptions", "contrast"]
    assert evaluate(*words) == 0
    before = Path("out/result.json").read_bytes()
    assert evaluate(*words) == 1
    assert "holds a finished evaluation" in capsys.readouterr().err
    assert Path("out/result.json").read_bytes() == before
    assert evaluate(*words, "--overwrite", "--seed", "1") == 0


def test_killed_evaluation_goes_on_and_gives_the_same_result(tmp_path):
    words = ["--corruptions", "gaussian_noise", "fog", "contrast"]
    command = [sys.executable, "-m", "tapadl", "evaluate", "--model", "own_for_evaluate:slow"]
    command += ["--benchmark", "embedded-c", "--severities", "1", "5", *QUICK, *words, "--out", "killed"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    units = Path("killed/units")
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if sum(path.read_bytes().count(b"\n") for path in units.glob("*.jsonl")) >= 5:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not Path("killed/result.json").exists()
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "going on with the unfinished evaluation in killed" in again.stdout
    assert evaluate("--out", "alone", *words, model="own_for_evaluate:slow") == 0
    assert cells_of("killed") == cells_of("alone")


@pytest.mark.slow
def test_torchrun_splits_the_work_and_gives_the_identical_result():
    words = ["--corruptions", "gaussian_noise", "contrast", "--benchmark", "embedded-c", *QUICK]
    words += ["--severities", "1", "5"]
    model = ["--model", "own_for_evaluate:tiny"]
    ended = subprocess.run(
        [*TORCHRUN, "-m", "tapadl", "evaluate", *model, *words, "--out", "two"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("result.json") == 1
    assert main(["evaluate", *model, *words, "--out", "one"]) == 0
    assert cells_of("two") == cells_of("one")


@pytest.mark.slow
def test_attacks_are_measured_beside_clean_images():
    pytest.importorskip("pyautoattack")
    words = ["--attack", "fgsm", "pgd", "autoattack", "--attack-eps", "1/16"]
    assert evaluate("--out", "out", *words, benchmark=("embedded",)) == 0
    result = EvaluationResult.load("out/result.json")
    found = result.metrics("embedded")
    assert found["error"] < found["error_fgsm"] <= found["error_pgd"] <= found["error_autoattack"]
    assert result.settings["attack"] == {"eps": 1 / 16, "norm": "linf", "steps": 10}


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--precision", "bfloat16"], ["--compile"]])
def test_faster_ways_answer_nearly_the_same_and_are_stated(words):
    assert evaluate("--out", "plain", "--corruptions", "contrast") == 0
    assert evaluate("--out", "fast", "--corruptions", "contrast", *words) == 0
    plain, fast = (EvaluationResult.load(f"{name}/result.json") for name in ("plain", "fast"))
    differing = {name for name, value in plain.settings.items() if fast.settings[name] != value}
    assert differing == {words[0].strip("-")}
    for one, other in zip(plain.benchmarks[0].records, fast.benchmarks[0].records, strict=True):
        assert (one.items["correct"] != other.items["correct"]).mean() <= 0.1


def class_folders(root, count=3):
    for name in ("cat", "dog"):
        for number in range(count):
            path = root / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (28, 28), 40 * number).save(path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--benchmark", "imagnet"], "did you mean imagenet?"),
        (["--benchmark", "imagenet"], "expected the folder of imagenet, got none"),
        (["--benchmark", "folder", "--data", "nowhere"], "nowhere"),
        (["--benchmark", "embedded", "--data", "x"], "whose images are in the package"),
        (["--benchmark", "embedded", "embedded"], "each benchmark once"),
        (["--benchmark", "embedded", "folder", "--data", "x"], "NAME=FOLDER for each"),
        (["--benchmark", "embedded", "--corruptions", "fog"], "expected a benchmark with corruptions"),
        (["--benchmark", "embedded-c", "--corruptions", "frog"], "got 'frog'"),
        (["--benchmark", "embedded-c", "--severities", "6"], "severities from 1 to 5, got 6"),
        (["--benchmark", "embedded-c", "--attack", "pgd"], "clean images to attack"),
        (["--benchmark", "embedded", "--attack", "bim"], "got 'bim'"),
        (["--benchmark", "embedded", "--jpeg85"], "corrupted in memory for JPEG"),
        (["--benchmark", "embedded", "--severities", "3"], "expected a benchmark with severities"),
        (["--benchmark", "embedded", "--subset", "7"], "7"),
        (["--benchmark", "embedded", "--attack", "pgd", "--attack-eps", "x"], "number such as 1/255"),
        (["--benchmark", "embedded", "--attack", "pgd", "--attack-eps", "8"], "8 of 255 steps are 8/255"),
        (["--benchmark", "embedded", "--attack", "pgd", "--attack-eps", "1e400"], "number such as 1/255"),
        (["--benchmark", "embedded", "--attack-norm", "l2"], "expected --attack-norm beside --attack"),
        (["--benchmark", "embedded", "--attack", "fgsm", "--attack-steps", "3"], "--attack-steps with pgd"),
        (
            ["--benchmark", "embedded", "--attack", "pgd", "--attack-norm", "l2"],
            "--attack-eps for the l2 norm",
        ),
        (["--benchmark", "embedded", "--device", "toaster"], "toaster"),
        (["--benchmark", "embedded", "--workers", "-1"], "--workers of at least 0, got -1"),
        (["--benchmark", "folder", "--data", "folder=classes", "folder=broken"], "expected one folder for"),
        (["--benchmark", "embedded", "--batch-size", "0"], "batch_size of at least 1"),
        (["--benchmark", "folder", "--data", "classes"], "expected a model with 2 outputs"),
        (["--benchmark", "folder", "--data", "broken"], "bad.png"),
        (["--benchmark", "folder", "--data", "broken", "--workers", "1"], "expected a whole image at broken"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing_behind(words, message, capsys, tmp_path):
    class_folders(tmp_path / "classes")
    class_folders(tmp_path / "broken")
    (tmp_path / "broken" / "cat" / "bad.png").write_bytes(b"\x89PNG")
    words = ["evaluate", "--model", "own_for_evaluate:tiny", "--workers", "0", *words]
    assert main([*words, "--out", "out"]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("tapadl: ")
    assert error.count("\n") == 1
    assert not Path("out/result.json").exists()


def test_help_names_every_benchmark(capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    printed = capsys.readouterr().out
    for name in ("imagenet-c", "imagenet-p", "embedded-c", "torchrun"):
        assert name in printed
