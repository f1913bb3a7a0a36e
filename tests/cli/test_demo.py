import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from importlib.metadata import version

import pytest

from tapadl.cli import main
from tapadl.cli.output import repeatable_command

TINY = [
    "--train-images", "60", "--evaluation-images", "20", "--corruptions", "contrast", "--severities", "3",
    "--epochs", "1", "--batch-size", "20",
]  # fmt: skip


def tapadl(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", "tapadl", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )


def one_sentence(text):
    return len(text.strip().splitlines()) == 1 and "Traceback" not in text


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["demo", "--sneeds", "3"], "got --sneeds 3"),
        (["demo", "--seed", "3"], "got --seed 3"),
        (["demo", "--seeds", "many"], "--seeds: invalid int value: 'many'"),
        (["demo", "--seeds", "0"], "expected seeds of at least 1, got 0"),
        (["demo", "--variants", "plane"], "invalid choice: 'plane'"),
        (["demo", "--learning-rate", "-1"], "expected learning_rate above 0"),
        (["demo", "--data", "full"], "expected --data-root"),
        (["demo", "--processes", "0"], "expected --processes of at least 1"),
        (["demo", "--evaluation-images", "0"], "expected evaluation_images of at least 1"),
        (["demo", "--severities", "6"], "expected severities from 1 to 5"),
        (["demo", "--corruptions", "rain"], "expected corruptions out of"),
        (["demo", "--num-branches", "0"], "expected num_branches of at least 1, got 0"),
        (["demo", "--adl-tau", "-1"], "expected adl_tau"),
        (["demo", "--adl-tau", "nan"], "expected adl_tau"),
        (["demo", "--learning-rate", "inf"], "expected learning_rate to be a finite number, got inf"),
        (["demo", "--first-seed", "1" + "0" * 30], "a last seed of at most 4294967295"),
        (["demo", "--severities", "3", "3"], "expected severities each once"),
        (["demo", "--data-root", "x"], "with --data full only"),
        (["demo", "--download"], "with --data full only"),
        (["demo", "--train-images", "30000"], "at most the 20000 there are, got 30000"),
        (["demo", "--train-images", "10"], "at least 50 training images for one batch, got 10"),
        (["demo", "--device", "meta"], "expected a device that torch can use here"),
        (["demo", "--device", "hpu"], "expected a device that torch can use here"),
        (["demo", "--device", "quantum"], "expected a device that torch can use here"),
        (["demmo"], "invalid choice: 'demmo'"),
        ([], "required: COMMAND"),
    ],
)
def test_wrong_command_line_ends_with_code_2_and_one_sentence(words, problem, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert problem in error
    assert one_sentence(error)
    assert not list(tmp_path.iterdir())


def test_unknown_flag_ends_the_process_with_code_2():
    ended = tapadl("demo", "--sneeds", "3")
    assert ended.returncode == 2
    assert one_sentence(ended.stderr)


def test_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"tapadl {version('tapadl')}\n"


@pytest.mark.parametrize("columns", ["80", "200"])
@pytest.mark.parametrize("words", [["--help"], ["demo", "--help"]])
def test_help_fits_into_80_columns(words, columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit):
        main(words)
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for word in ("examples:", "variants:", "plain-equal-time", "--overwrite", "tapadl demo --quick"):
        assert word in shown


def test_tiny_demo_writes_results_then_refuses_then_overwrites(tmp_path):
    out = tmp_path / "out"
    ended = tapadl("demo", *TINY, "--out", out)
    assert ended.returncode == 0, ended.stderr
    assert "corrupted" in ended.stdout
    *_, note, weights, page = ended.stdout.splitlines()
    assert note == "Quick run: 3 steps on 60 images: a check that everything works, not a result."
    assert weights == f"results and weights: {out}"
    assert page == f"page: {out / 'report.html'}"
    results = json.loads((out / "results.json").read_text())
    assert results["command"] == "tapadl demo " + " ".join(TINY)
    assert {run["variant"] for run in results["runs"]} == {"plain", "tap+adl"}
    assert str(tmp_path) not in (out / "results.json").read_text()

    ended = tapadl("demo", *TINY, "--out", out)
    assert ended.returncode == 2
    assert "holds a finished demo (its page is" in ended.stderr
    assert f"{out / 'report.html'}); name another folder, or pass --overwrite" in ended.stderr
    assert one_sentence(ended.stderr)

    ended = tapadl("demo", *TINY, "--variants", "plain", "--out", out, "--overwrite")
    assert ended.returncode == 0, ended.stderr
    assert not (out / "model_tap+adl_seed0.safetensors").exists()


def test_killed_demo_goes_on_with_the_same_command(tmp_path):
    out = tmp_path / "out"
    words = ["demo", *TINY, "--seeds", "12", "--variants", "plain", "--processes", "1", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tapadl", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while len(list(out.glob("runs/*.json"))) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path: path.read_bytes() for path in out.glob("runs/*.json")}
    assert 2 <= len(kept) < 12
    ended = tapadl(*words)
    assert ended.returncode == 0, ended.stderr
    assert "going on with the unfinished demo" in ended.stdout
    assert "plain, seed 0: finished earlier, kept" in ended.stdout
    assert len(json.loads((out / "results.json").read_text())["runs"]) == 12
    assert {path: path.read_bytes() for path in kept} == kept


def test_folder_that_cannot_be_written_ends_with_code_1(tmp_path, capsys):
    (tmp_path / "file").write_bytes(b"")
    assert main(["demo", *TINY, "--out", str(tmp_path / "file" / "out")]) == 1
    error = capsys.readouterr().err
    assert "could not write" in error
    assert one_sentence(error)


def test_disk_that_fills_up_ends_with_code_1_and_leaves_no_half_file(tmp_path):
    out = tmp_path / "out"

    def small_files_only():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    ended = tapadl("demo", *TINY, "--out", out, preexec_fn=small_files_only, env=environment)
    assert ended.returncode == 1
    assert "could not write" in ended.stderr
    assert one_sentence(ended.stderr)
    assert sorted(path.name for path in out.iterdir()) == [".lock", "job.json"]


@pytest.mark.parametrize("damage", ["missing", "cut short"])
def test_data_that_cannot_be_read_ends_with_code_1_and_names_the_file(damage, tmp_path, capsys):
    root = tmp_path / "data"
    root.mkdir()
    if damage == "cut short":
        (root / "train-images-idx3-ubyte.gz").write_bytes(b"\x1f\x8b\x08\x00")
    words = ["demo", *TINY, "--data", "full", "--data-root", str(root), "--out", str(tmp_path / "out")]
    assert main(words) == 1
    error = capsys.readouterr().err
    assert "train-images-idx3-ubyte.gz" in error
    assert one_sentence(error)


@pytest.mark.parametrize(
    "impossible",
    [
        ["--batch-size", "61"],
        ["--num-branches", "0"],
        ["--device", "meta"],
        ["--data", "full"],
        ["--train-images", "30000"],
    ],
)
def test_overwrite_for_a_job_that_cannot_be_done_deletes_nothing(impossible, tmp_path, capsys):
    (tmp_path / "job.json").write_text('{"kind": "demo-job", "settings": {}, "versions": {}}')
    (tmp_path / "results.json").write_text("old")
    with pytest.raises(SystemExit) as ended:
        main(["demo", *TINY, *impossible, "--out", str(tmp_path), "--overwrite"])
    assert ended.value.code == 2
    assert one_sentence(capsys.readouterr().err)
    assert {path.name for path in tmp_path.iterdir()} == {"job.json", "results.json"}
    assert (tmp_path / "results.json").read_text() == "old"


@pytest.mark.parametrize("place", ["/dev/full", "closed pipe", "nowhere"])
def test_output_that_nobody_takes_does_not_end_the_demo(place, tmp_path):
    out = tmp_path / "out"
    words = [*TINY, "--variants", "plain", "--out", str(out)]
    command = f"{shlex.join([sys.executable, '-m', 'tapadl', 'demo', *words])}"
    redirect = {"/dev/full": ">/dev/full", "closed pipe": "| true", "nowhere": ">&-"}[place]
    ended = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} {redirect}"], capture_output=True, text=True, timeout=300
    )
    assert (out / "results.json").exists()
    if place == "nowhere":
        assert (ended.returncode, ended.stderr) == (0, "")
    else:
        assert ended.returncode == 1
        assert "but the results are in" in ended.stderr
        assert one_sentence(ended.stderr)


def test_terminal_that_knows_only_ascii_is_enough(tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    words = [*TINY, "--variants", "plain", "--seeds", "2", "--processes", "1"]
    ended = tapadl("demo", *words, "--out", tmp_path / "out-ä", env=environment)
    assert ended.returncode == 0, ended.stderr
    assert "out-?" in ended.stdout


def test_interrupt_ends_with_code_130(monkeypatch, tmp_path):
    def interrupt(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("tapadl.demo.bench.load_data", interrupt)
    assert main(["demo", *TINY, "--out", str(tmp_path / "out")]) == 130


def test_recorded_command_leaves_out_folders():
    words = ("--out", "/a/b", "--seeds", "3", "--data-root=/c", "--data", "full", "--overwrite")
    command = repeatable_command("demo", words, folders=["--data-root"])
    assert command == "tapadl demo --seeds 3 --data-root DIR --data full"


def test_recorded_command_keeps_the_name_of_a_file_and_not_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fan.safetensors").touch()
    (tmp_path / "runs" / "a").mkdir(parents=True)
    words = (
        "--model",
        f"local-dir:{tmp_path}/fan.safetensors",
        f"--x={tmp_path}",
        "--out=o",
        "own:tiny",
        ".",
        "runs/a",
    )
    assert repeatable_command("evaluate", words) == (
        f"tapadl evaluate --model local-dir:fan.safetensors --x={tmp_path.name} own:tiny . runs/a"
    )
