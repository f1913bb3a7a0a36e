import json
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

import tapadl.models  # noqa: F401  registers the names
from tapadl import cli
from tapadl.evaluation.benchmark_result import BenchmarkResult, EvaluationResult
from tapadl.evaluation.plan import Cell
from tapadl.evaluation.record import Record
from tapadl.evaluation.weights import state_sha256
from tapadl.models.convert import to_official

NAME = "tap_rvt_tiny"


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A checkpoint as a training script of the release would write it, and the model it is of."""
    torch.manual_seed(0)
    model = timm.create_model(NAME, num_classes=5).eval()
    path = tmp_path_factory.mktemp("released") / "released.pth.tar"
    official = {f"module.{key}": tensor for key, tensor in to_official(model.state_dict(), NAME).items()}
    torch.save({"epoch": 3, "state_dict": official}, path)
    return path, model


def output_of(model):
    with torch.no_grad():
        return model.eval()(torch.ones(1, 3, 64, 64))


def test_a_file_loads_into_timm_and_says_where_it_is_from(released, tmp_path, capsys):
    path, model = released
    target = tmp_path / "converted.safetensors"
    assert cli.main(["convert", str(path), str(target), "--model", NAME]) == 0
    assert "from the weights under state_dict" in capsys.readouterr().out
    loaded = timm.create_model(NAME, num_classes=5, checkpoint_path=str(target))
    assert torch.equal(output_of(loaded), output_of(model))
    with safe_open(target, "pt") as file:
        facts = file.metadata()
    assert facts["model_name"] == NAME
    assert len(facts["source_sha256"]) == 64


def test_a_folder_loads_as_timm_loads_a_local_one(released, tmp_path):
    path, model = released
    target = tmp_path / "converted"
    assert cli.main(["convert", str(path), str(target), "--model", NAME]) == 0
    assert sorted(file.name for file in target.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    loaded = timm.create_model(f"local-dir:{target}", pretrained=True)
    assert torch.equal(output_of(loaded), output_of(model))
    assert json.loads((target / "config.json").read_text())["num_classes"] == 5
    assert f"# {NAME}" in (target / "README.md").read_text()


@pytest.mark.parametrize("name", ["out", "out.safetensors"])
def test_nothing_is_overwritten_unless_asked(released, tmp_path, capsys, name):
    path, _ = released
    target = tmp_path / name
    words = ["convert", str(path), str(target), "--model", NAME]
    assert cli.main(words) == 0
    assert cli.main(words) == 1
    assert "expected nothing at" in capsys.readouterr().err
    assert cli.main([*words, "--overwrite"]) == 0
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("content", "model", "message"),
    [
        ({"state_dict": {"head.bias": torch.zeros(3)}}, NAME, "the weights hold no TAP"),
        ({"epoch": 1}, NAME, "expected weights in"),
        ({"x": torch.nn.Linear(2, 2)}, NAME, "not known to be harmless"),
        ({"head.bias": torch.zeros(3)}, "resnet50", "expected a model out of"),
        (None, NAME, "found no file"),
        (b"", NAME, "got an empty file"),
    ],
)
def test_what_goes_wrong_is_one_sentence_and_leaves_nothing_behind(tmp_path, capsys, content, model, message):
    source, target = tmp_path / "in.pth", tmp_path / "out" / "converted.safetensors"
    if isinstance(content, bytes):
        source.write_bytes(content)
    elif content is not None:
        torch.save(content, source)
    assert cli.main(["convert", str(source), str(target), "--model", model]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not target.parent.exists()


def test_models_lists_parameters_and_published_scores(capsys):
    assert cli.main(["models", "*rvt_base_plus"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["tap_rvt_base_plus", "89.4", "0.33", "83.1", "44.7", "32.7", "29.6"]
    assert any("arXiv:2303.11126" in line for line in lines[3:])


def test_models_says_when_nothing_is_called_so(capsys):
    assert cli.main(["models", "vit*"]) == 1
    assert "expected a pattern of a model's name" in capsys.readouterr().err


def test_help_of_a_process():
    for command in ("convert", "models"):
        words = [sys.executable, "-m", "tapadl", command, "--help"]
        help_text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        assert "examples:" in help_text


def evaluated(weights, path):
    """A result of these weights, as `tapadl evaluate` would write it."""
    cells = (Record(Cell("clean"), {"correct": np.array([True, True, True, False])}, {}),)
    benchmark = BenchmarkResult("imagenet", "stored", {"count": 4}, {}, cells)
    model = {"name": NAME, "weights_sha256": state_sha256(weights)}
    EvaluationResult("2026-01-01", "tapadl evaluate", {}, {}, model, {}, (benchmark,)).save(path)


def test_scores_of_an_evaluation_of_these_weights_stand_in_the_card(released, tmp_path):
    path, model = released
    evaluated(model.state_dict(), tmp_path / "result.json")
    words = ["convert", str(path), str(tmp_path / "out"), "--model", NAME, "--result"]
    assert cli.main([*words, str(tmp_path / "result.json")]) == 0
    assert "| imagenet error (%) | 25.00 |" in (tmp_path / "out" / "README.md").read_text()


def test_scores_of_other_weights_are_refused(released, tmp_path, capsys):
    path, model = released
    evaluated({**model.state_dict(), "head.bias": torch.ones(5)}, tmp_path / "result.json")
    words = ["convert", str(path), str(tmp_path / "out"), "--model", NAME, "--result"]
    assert cli.main([*words, str(tmp_path / "result.json")]) == 1
    assert "expected a result of these weights" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_our_own_weights_become_a_folder_to_share(released, tmp_path):
    _, model = released
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    words = ["convert", str(tmp_path / "model.safetensors"), str(tmp_path / "out"), "--model", NAME]
    assert cli.main(words) == 0
    loaded = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    assert torch.equal(output_of(loaded), output_of(model))


@pytest.mark.parametrize("target", ["converted", "converted.safetensors"])
def test_evaluation_reads_what_was_written(released, tmp_path, monkeypatch, target):
    path, model = released
    monkeypatch.chdir(tmp_path)
    for number in range(5):
        (tmp_path / "images" / str(number)).mkdir(parents=True)
        Image.new("RGB", (250, 240), (50 * number, 99, 7)).save(tmp_path / "images" / str(number) / "a.png")
    assert cli.main(["convert", str(path), target, "--model", NAME]) == 0
    words = ["--benchmark", "folder", "--data", "images", "--device", "cpu", "--workers", "0", "--out", "out"]
    assert cli.main(["evaluate", "--model", target, *words]) == 0
    result = EvaluationResult.load("out/result.json")
    assert result.model["weights_sha256"] == state_sha256(model.state_dict())
    # the card takes the scores of exactly these weights
    again = ["convert", target if target.endswith("s") else f"{target}/model.safetensors", "shared"]
    assert cli.main([*again, "--model", NAME, "--result", "out/result.json"]) == 0
    error = 100 * result.metrics("folder")["error"]
    assert f"| folder error (%) | {error:.2f} |" in (tmp_path / "shared" / "README.md").read_text()
