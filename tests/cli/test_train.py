import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

from tapadl import cli
from tapadl.diagnostics.explorer.packing import unpack_page
from tapadl.evaluation.benchmark_result import EvaluationResult
from tapadl.training.arguments import known_keys, parse

RECIPE = """
model:
  name: vit_tiny_patch16_224
  img_size: 32
  drop_path: 0.1
  options: {patch_size: 8, embed_dim: 16, depth: 2, num_heads: 2}
data: {workers: 1}
augmentation: {mixup: 0.5, reprob: 0.2, label_smoothing: 0.1}
schedule: {warmup_epochs: 0.5}
training: {epochs: 4, batch_size: 8, accumulation: 2, ema_decay: 0.9, precision: bfloat16}
checkpoint: {every_steps: 3, keep: 2}
evaluation: {every_epochs: 2, corruptions: [fog], severities: [2], images: 6}
logging: {every_steps: 1}
"""
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
STEPS = 4 * (50 // 8)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Three classes of small pictures, each of its own colour, to train on and to evaluate on."""
    folder = tmp_path_factory.mktemp("images")
    draws = np.random.default_rng(0)
    for part, count in (("train", 50), ("val", 15)):
        for number in range(count):
            pixels = draws.integers(0, 150, (40, 36, 3), dtype=np.uint8)
            pixels[:, :, number % 3] += 100
            path = folder / part / ("red", "green", "blue")[number % 3] / f"{number:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return folder


@pytest.fixture(scope="module")
def words(images):
    (images / "recipe.yaml").write_text(RECIPE)
    return [
        *("train", "--config", str(images / "recipe.yaml")),
        *("--data.train", str(images / "train"), "--data.val", str(images / "val")),
    ]


@pytest.fixture(scope="module")
def undisturbed(words, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert cli.main([*words, "--out", str(out)]) == 0
    return out


def weights(folder):
    return load_file(folder / "model.safetensors")


def log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def assert_same_weights(folder, other):
    ours, theirs = weights(folder), weights(other)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def test_a_run_leaves_its_settings_its_log_a_picture_and_the_weights(undisturbed, words):
    assert parse(["--config", str(undisturbed / "settings.yaml")]) == parse(words[1:])
    trained = [line for line in log(undisturbed) if line["kind"] == "train"]
    assert [line["step"] for line in trained] == list(range(1, STEPS + 1))
    assert {"loss", "cross_entropy", "adl", "learning_rate", "images_per_second"} <= set(trained[0])
    evaluated = [line for line in log(undisturbed) if line["kind"] == "evaluation"]
    assert [line["step"] for line in evaluated] == [STEPS // 2, STEPS]
    assert {"top1", "fog_top1", "corrupted_top1"} <= set(evaluated[0])
    (start,) = json.loads((undisturbed / "starts.json").read_text())
    assert start["command"].startswith("tapadl train --config")
    assert "--out" not in start["command"]
    assert start["versions"]["torch"] == torch.__version__.split("+")[0]
    with Image.open(undisturbed / "curves.png") as picture:
        assert np.array(picture.convert("L")).std() > 10
    best = json.loads((undisturbed / "checkpoints" / "best.json").read_text())
    assert (undisturbed / "checkpoints" / best["folder"] / "SHA256SUMS").is_file()
    assert load_file(undisturbed / "best.safetensors").keys() == weights(undisturbed).keys()
    assert any(name.endswith("tap.dilation_predictor.proj.0.weight") for name in weights(undisturbed))


def test_weights_of_a_run_in_channels_last_are_written_and_names_of_classes_known(words, tmp_path):
    out = tmp_path / "run"
    few = ["--training.channels_last", "true", "--training.epochs", "1", "--evaluation.every_epochs", "1"]
    assert cli.main([*words, *few, "--out", str(out)]) == 0
    assert load_file(out / "best.safetensors").keys() == weights(out).keys()
    page = tmp_path / "page.html"
    picture = next((tmp_path / "run").rglob("curves.png"))
    looks = ["--corruptions", "fog", "--severities", "1", "--device", "cpu", "--out", str(page)]
    assert cli.main(["explore", str(picture), "--model", str(out / "model.safetensors"), *looks]) == 0
    (packed,) = re.findall(r'id="data">([^<]*)<', page.read_text(encoding="utf-8"))
    answers = unpack_page(packed)[0]["models"][0]["answers"][0][0]
    assert {name for name, *_ in answers} == {"red", "green", "blue"}


def test_a_run_is_told_from_others_as_it_was_before_there_were_other_tasks(undisturbed):
    job = json.loads((undisturbed / "job.json").read_text())
    sections = ("model", "data", "tap", "adl", "augmentation", "optimizer", "schedule", "training", "images")
    assert {name for name, value in job.items() if isinstance(value, dict)} == set(sections)
    assert "head_lr" not in job["optimizer"]


def test_the_weights_are_the_average_and_the_model_has_learned(undisturbed):
    assert log(undisturbed)[-1]["top1"] > 0.6
    first, last = log(undisturbed)[0], [line for line in log(undisturbed) if line["kind"] == "train"][-1]
    assert last["cross_entropy"] < first["cross_entropy"]


def test_timm_and_evaluate_take_the_folder_as_a_model(undisturbed, images, tmp_path):
    words = ["--benchmark", "folder", "--data", str(images / "val"), "--precision", "bfloat16"]
    words += ["--workers", "0", "--device", "cpu"]
    assert cli.main(["evaluate", "--model", str(undisturbed), *words, "--out", str(tmp_path / "e")]) == 0
    result = EvaluationResult.load(tmp_path / "e" / "result.json")
    (benchmark,) = result.benchmarks
    assert 1 - benchmark.clean_error == pytest.approx(log(undisturbed)[-1]["top1"])
    config = json.loads((undisturbed / "config.json").read_text())
    assert config["label_names"] == ["blue", "green", "red"]
    model = timm.create_model(f"local-dir:{undisturbed}", pretrained=False)
    assert model.patch_embed.img_size == (32, 32)
    assert len(model.blocks) == 2


def started(command, out, step):
    """A run that has logged so many steps by now."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (out / "log.jsonl").exists() or (out / "log.jsonl").read_text().count('"train"') < step:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return process


@pytest.mark.slow
def test_stopped_and_killed_and_started_again_it_ends_with_the_same_bits(
    words, undisturbed, tmp_path, capsys
):
    out = tmp_path / "disturbed"
    command = [sys.executable, "-m", "tapadl", *words, "--out", str(out)]
    process = started([*command, "--checkpoint.every_steps", "null"], out, 4)
    process.terminate()
    told, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert f"of {STEPS} and saved; the same command goes on from there" in told
    assert not (out / "model.safetensors").exists()
    process = started(command, out, 13)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    # workers, checkpoints and where images lie may differ
    moved = tmp_path / "moved"
    moved.symlink_to(words[words.index("--data.train") + 1])
    others = ["--data.workers", "0", "--checkpoint.every_steps", "5", "--data.train", str(moved)]
    capsys.readouterr()
    assert cli.main([*words, *others, "--out", str(out)]) == 0
    assert "going on from step" in capsys.readouterr().out
    assert_same_weights(out, undisturbed)
    assert len(json.loads((out / "starts.json").read_text())) == 3
    assert cli.main([*words, "--out", str(out)]) == 1
    assert "holds a finished training" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_train_the_same_run(words, tmp_path, parallel):
    out = tmp_path / "two"
    one = tmp_path / "one"
    # without what is drawn once a process: mixup, drop path
    plain = ["--augmentation.mixup", "0", "--model.drop_path", "0", "--training.precision", "float32"]
    plain += ["--tap.enabled", "false", "--training.max_steps", "6", "--training.accumulation", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*TORCHRUN, "-m", "tapadl", *words, *plain, "--parallel", parallel, "--out", str(out)],
        env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert cli.main([*words, *plain, "--out", str(one)]) == 0
    ours, theirs = weights(out), weights(one)
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, rtol=1e-4, atol=2e-6)
    assert log(out)[-1]["top1"] == log(one)[-1]["top1"]
    for line, other in zip(log(out), log(one), strict=True):
        if line["kind"] == "train":
            assert line["loss"] == pytest.approx(other["loss"], rel=1e-5)


def test_a_run_goes_on_when_a_picture_for_validation_was_taken_away(words, tmp_path, capsys):
    out, val = tmp_path / "unfinished", tmp_path / "val"
    place = words.index("--data.val") + 1
    shutil.copytree(words[place], val)
    words = [*words[:place], str(val), *words[place + 1 :], "--training.max_steps", "2", "--out", str(out)]
    assert cli.main(words) == 0
    assert "other images in data.val" not in capsys.readouterr().out
    (out / "model.safetensors").unlink()  # as if it had been killed before
    next(val.glob("*/*")).unlink()
    assert cli.main(words) == 0
    assert "going on with other images in data.val" in capsys.readouterr().out
    (out / "model.safetensors").unlink()
    (out / "starts.json").write_text("{")
    assert cli.main(words) == 1
    assert "starts.json, but it is damaged" in capsys.readouterr().err


def test_another_run_in_the_folder_is_refused_and_nothing_changes(undisturbed, words, tmp_path, capsys):
    out = tmp_path / "unfinished"
    assert cli.main([*words, "--training.max_steps", "2", "--out", str(out)]) == 0
    (out / "model.safetensors").unlink()  # as if it had been killed before
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert cli.main([*words, "--training.max_steps", "2", "--optimizer.lr", "1e-2", "--out", str(out)]) == 1
    assert "one that differs in optimizer lr" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    assert cli.main([*words, "--out", str(tmp_path / "mine")]) == 1
    assert "holds other files" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("further", "sentence"),
    [
        (["--optimizer.lrate", "1"], "did you mean --optimizer.lr?"),
        (["--training.epochs", "2.5"], "expected --training.epochs to be a whole number, got 2.5"),
        (["--data.train", "nowhere"], "expected a folder at nowhere, but there is none"),
        (["--model.name", "vit_tiny_patch16_24"], "did you mean vit_tiny_patch16_224"),
        (["--data.num_classes", "2"], "expected data.num_classes of at least 3"),
        (
            ["--model.checkpoint", "none.safetensors"],
            "expected a checkpoint at none.safetensors, found no file",
        ),
        (["--model.pretrained", "true", "--model.name", "tap_fan_tiny_12_p16_224"], "no weights of"),
        (["--augmentation.auto_augment", "randd"], "words that timm's create_transform knows"),
        (["--optimizer.name", "adamv"], "expected optimizer.name to be one of timm's"),
        (["--training.batch_size", "64"], "expected at least 64 training images for one batch, got 50"),
        (["stray"], "expected --KEY VALUE, got 'stray'"),
        (["--config"], "expected a value after --config"),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence(further, sentence, words, tmp_path, capsys):
    assert cli.main([*words, *further, "--out", str(tmp_path / "out")]) == 1
    told = capsys.readouterr().err
    assert sentence in told
    assert told.startswith("tapadl: ")
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_unreadable_image_stops_the_run_or_is_skipped_and_counted(images, words, tmp_path, capsys):
    data = tmp_path / "train"
    for path in sorted((images / "train").rglob("*.png")):
        (data / path.parent.name).mkdir(parents=True, exist_ok=True)
        (data / path.parent.name / path.name).write_bytes(path.read_bytes())
    broken = next(iter(sorted((data / "red").iterdir())))
    broken.write_bytes(b"no picture")
    further = ["--data.train", str(data), "--training.epochs", "1", "--evaluation.every_epochs", "1"]
    further += ["--data.workers", "1", "--training.batch_size", "10", "--schedule.warmup_epochs", "0"]
    further += ["--training.accumulation", "1"]
    assert cli.main([*words, *further, "--out", str(tmp_path / "stops")]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"tapadl: expected a whole image at {broken}, but it does not decode")
    assert told.count("\n") == 1
    assert not multiprocessing.active_children()
    assert cli.main([*words, *further, "--data.on_error", "skip", "--out", str(tmp_path / "skips")]) == 0
    assert f"skipped 1 training images that cannot be read: {broken}" in capsys.readouterr().out


def test_a_loss_that_is_not_finite_stops_the_run_and_the_last_good_checkpoint_stays(words, tmp_path, capsys):
    out = tmp_path / "out"
    diverging = ["--optimizer.name", "sgd", "--optimizer.lr", "1e30", "--schedule.warmup_epochs", "0"]
    assert cli.main([*words, *diverging, "--checkpoint.every_steps", "1", "--out", str(out)]) == 1
    told = capsys.readouterr().err
    assert "expected a finite" in told
    assert "at step" in told
    assert "try a learning rate below 1e+30" in told


def test_help_shows_every_setting_and_examples(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["train", "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for key in known_keys():
        assert key.partition(".")[2] in text
    assert "torchrun --nproc-per-node" in text
    assert max(map(len, text.splitlines())) <= 110
