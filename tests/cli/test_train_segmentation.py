"""A segmenter trained by the command, on scenes of three coloured fields."""

import json
import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tapadl import cli
from tapadl.tasks.segmentation.data import open_data
from tapadl.tasks.segmentation.model import SegmenterDescription, load_trained
from tapadl.tasks.segmentation.scores import Scores
from tapadl.tasks.training_run import run_training
from tapadl.training.arguments import parse
from tapadl.training.parallel import joined

RECIPE = """
task: segmentation
model: {name: test_vit, drop_path: 0.1, options: {patch_size: 8, img_size: [32, 48], depth: 2}}
data: {workers: 0}
segmentation: {head_dim: 16, crop_size: [32, 48], scale: [0.75, 1.5]}
optimizer: {lr: 2e-3, head_lr: 5.0}
schedule: {name: poly, warmup_epochs: 0.5, warmup_lr: 0.0, min_lr: 0.0}
training: {epochs: 3, batch_size: 4, ema_decay: 0.5}
checkpoint: {every_steps: 5, every_epochs: null}
evaluation: {every_epochs: 2, corruptions: [contrast], severities: [2], images: 3}
logging: {every_steps: 1}
"""
STEPS = 3 * (17 // 4)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    draws = np.random.default_rng(0)
    colours = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200]])
    for part, count in (("train", 17), ("val", 5)):
        for number in range(count):
            rows, cols = draws.integers(40, 56, 2)
            mask = np.zeros((rows, cols), np.uint8)
            mask[: rows // 2] = draws.integers(0, 3)
            mask[rows // 2 :, : cols // 3] = 1
            mask[rows // 2 :, cols // 3 :] = 2
            pixels = (colours[mask] + draws.integers(-40, 40, (rows, cols, 3))).astype(np.uint8)
            mask[:2] = 255
            for folder, values in (("images", pixels), ("masks", mask)):
                path = root / part / folder / f"{number:02}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(path)
    (root / "classes.json").write_text(json.dumps({"class_names": ["red", "green", "blue"]}))
    (root / "recipe.yaml").write_text(RECIPE)
    return ["--config", str(root / "recipe.yaml"), "--data.train", str(root), "--data.val", str(root)]


@pytest.fixture(scope="module")
def undisturbed(words, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert cli.main(["train", *words, "--out", str(out)]) == 0
    return out


class Watcher:
    """Asks the run to stop after a step."""

    def __init__(self, stop_after=None):
        self.stop_after = stop_after
        self.told = []

    def tell(self, sentence):
        self.told.append(sentence)

    def stepped(self, step):
        if step == self.stop_after:
            os.kill(os.getpid(), signal.SIGTERM)

    def nothing(self, *_):
        pass

    begin = trained = shown = evaluated = nothing


def log(folder, kind):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def test_a_run_learns_and_says_what_it_scores(undisturbed):
    trained, evaluated = log(undisturbed, "train"), log(undisturbed, "evaluation")
    assert [line["step"] for line in trained] == list(range(1, STEPS + 1))
    assert {"loss", "cross_entropy", "adl", "learning_rate"} <= set(trained[0])
    assert trained[-1]["cross_entropy"] < trained[0]["cross_entropy"]
    assert [line["step"] for line in evaluated] == [2 * STEPS // 3, STEPS]
    assert {"miou", "corrupted_miou", "contrast_miou"} <= set(evaluated[0])
    assert evaluated[-1]["miou"] > 0.4
    best = json.loads((undisturbed / "checkpoints" / "best.json").read_text())
    assert best["score"] == best["miou"]
    with Image.open(undisturbed / "curves.png") as picture:
        assert np.array(picture.convert("L")).std() > 10


def test_stopped_half_way_and_gone_on_with_it_ends_with_the_same_bits(words, undisturbed, tmp_path):
    settings = parse(words)
    assert not run_training(settings, tmp_path / "out", Watcher(STEPS // 2 + 1), command="").finished
    other = parse([*words, "--optimizer.head_lr", "3", "--segmentation.photometric", "false"])
    with pytest.raises(
        FileExistsError, match="one that differs in segmentation photometric, optimizer head_lr"
    ):
        run_training(other, tmp_path / "out", Watcher(), command="")
    watcher = Watcher()
    other_windows = parse([*words, "--segmentation.window", "[64, 64]"])  # no larger scene: the same scores
    assert run_training(other_windows, tmp_path / "out", watcher, command="").finished
    assert any("going on from step" in sentence for sentence in watcher.told)
    for name in ("model.safetensors", "best.safetensors"):
        ours, theirs = load_file(tmp_path / "out" / name), load_file(undisturbed / name)
        assert ours.keys() == theirs.keys()
        assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
    assert log(tmp_path / "out", "evaluation")[-1]["miou"] == log(undisturbed, "evaluation")[-1]["miou"]


def test_the_file_of_weights_says_what_the_segmenter_is_and_it_scores_the_same(undisturbed, words):
    settings = parse(words)
    loaded = load_trained(undisturbed / "model.safetensors")
    assert loaded.name == "test_vit"
    assert loaded.description.scheme.class_names == ("red", "green", "blue")
    assert loaded.description.tap["num_branches"] == 4
    assert any(".tap." in name for name in loaded.model.state_dict())
    described = SegmenterDescription.from_text((undisturbed / "config.json").read_text())
    assert described == loaded.description == load_trained(undisturbed / "best.safetensors").description
    cpu = torch.device("cpu")
    with joined(cpu):
        val = open_data(settings).val
        evaluate = Scores(
            val, settings.evaluation, settings.segmentation, described, num_workers=0, device=cpu
        )
        scores = evaluate(loaded.model)
    last = log(undisturbed, "evaluation")[-1]
    assert scores == {name: last[name] for name in scores}


@pytest.mark.parametrize(
    ("further", "sentence"),
    [
        (["--augmentation.mixup", "0.5"], "expected augmentation.mixup to be left at its default"),
        (["--task", "classification"], "to be left at its default where task is classification"),
        (["--task", "segmentatoin"], "expected --task to be one of classification, segmentation"),
        (["--segmentation.stride", "[8, 8]"], "stride to be null where segmentation.window is null"),
        (["--training.batch_size", "64"], "expected at least 64 training images for one batch, got 17"),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence(further, sentence, words, tmp_path, capsys):
    assert cli.main(["train", *words, *further, "--out", str(tmp_path / "out")]) == 1
    told = capsys.readouterr().err
    assert sentence in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()
