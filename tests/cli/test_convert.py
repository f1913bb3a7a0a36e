import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from tapadl import cli
from tapadl.evaluation.benchmark_result import BenchmarkResult, EvaluationResult
from tapadl.evaluation.loading import load_model
from tapadl.evaluation.plan import Cell
from tapadl.evaluation.record import Record
from tapadl.evaluation.weights import state_sha256
from tapadl.models import VARIANTS
from tapadl.models.convert import to_official
from tapadl.models.weights import PUBLISHED, expected_bytes

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


def metadata_of(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


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
    assert metadata_of(target) == {
        "model_name": NAME,
        "source_file": "released.pth.tar",
        "source_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "source_wrapper": "state_dict",
        "licence": "see the page",
        "page": "https://github.com/guoyongcs/TAPADL",
        "recipe": "see the page",
    }


def test_a_folder_loads_as_timm_loads_a_local_one(released, tmp_path):
    path, model = released
    target = tmp_path / "converted"
    assert cli.main(["convert", str(path), str(target), "--model", NAME]) == 0
    assert sorted(file.name for file in target.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    loaded = timm.create_model(f"local-dir:{target}", pretrained=True)
    assert torch.equal(output_of(loaded), output_of(model))
    assert json.loads((target / "config.json").read_text())["num_classes"] == 5
    assert f"# {NAME}" in (target / "README.md").read_text()


def test_a_folder_uploaded_to_a_hub_loads_from_there(released, tmp_path):
    path, model = released
    # what a hub's cache holds after a download, so that nothing is fetched
    cached = tmp_path / "models--somebody--robust"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("1234")
    assert cli.main(["convert", str(path), str(cached / "snapshots" / "1234"), "--model", NAME]) == 0
    loaded = timm.create_model("hf-hub:somebody/robust", pretrained=True, cache_dir=str(tmp_path))
    assert torch.equal(output_of(loaded), output_of(model))


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


def test_what_is_written_about_weights_stays_with_them(released, tmp_path):
    path, model = released
    first, second = tmp_path / "first.safetensors", tmp_path / "second"
    assert cli.main(["convert", str(path), str(first), "--model", NAME]) == 0
    assert cli.main(["convert", str(first), str(second), "--model", NAME]) == 0
    assert metadata_of(second / "model.safetensors") == metadata_of(first)
    assert "- page: https://github.com/guoyongcs/TAPADL\n" in (second / "README.md").read_text()
    own = tmp_path / "own.safetensors"
    save_file(model.state_dict(), own)
    assert cli.main(["convert", str(own), str(tmp_path / "shared"), "--model", NAME]) == 0
    facts = metadata_of(tmp_path / "shared" / "model.safetensors")
    assert facts["source_sha256"] == hashlib.sha256(own.read_bytes()).hexdigest()
    assert not {"licence", "page", "recipe"} & facts.keys()


def test_a_folder_with_anything_else_in_it_is_never_replaced(released, tmp_path, capsys):
    path, _ = released
    (tmp_path / "notes.txt").write_text("mine")
    assert cli.main(["convert", str(path), str(tmp_path), "--model", NAME, "--overwrite"]) == 1
    assert "found notes.txt; name another" in capsys.readouterr().err
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["out", "out.safetensors"])
def test_a_place_that_cannot_be_written_is_one_sentence(released, tmp_path, capsys, name):
    path, _ = released
    (tmp_path / "file").write_text("")
    assert cli.main(["convert", str(path), str(tmp_path / "file" / name), "--model", NAME]) == 1
    error = capsys.readouterr().err
    assert "could not write" in error
    assert error.count("\n") == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_malicious_file_runs_nothing_and_is_one_sentence_of_the_process(tmp_path):
    source, traces = tmp_path / "in.pth.tar", tmp_path / "traces"
    torch.save({"state_dict": {"head.bias": torch.zeros(3)}, "x": Malicious(traces)}, source)
    words = [sys.executable, "-m", "tapadl", "convert", str(source), str(tmp_path / "out"), "--model", NAME]
    ended = subprocess.run(words, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("tapadl: in.pth.tar holds io.open, which is not known to be harmless")
    assert ended.stderr.count("\n") == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["in.pth.tar"]


class Malicious:
    """Its pickle calls `open` for writing."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("kept", [0.5, 0.999])
def test_a_file_cut_short_leaves_nothing_behind(released, tmp_path, capsys, kept):
    path, _ = released
    source, target = tmp_path / "in.pth", tmp_path / "out"
    whole = path.read_bytes()
    source.write_bytes(whole[: int(kept * len(whole))])
    assert cli.main(["convert", str(source), str(target), "--model", NAME]) == 1
    error = capsys.readouterr().err
    assert "is damaged or was cut short" in error
    assert error.count("\n") == 1
    assert not target.exists()


@pytest.mark.parametrize(
    ("content", "model", "message"),
    [
        ({"state_dict": {"head.bias": torch.zeros(3)}}, NAME, "the weights hold no TAP"),
        ({"epoch": 1}, NAME, "expected weights in"),
        ({"x": torch.nn.Linear(2, 2)}, NAME, "not known to be harmless"),
        ({"head.bias": torch.zeros(3)}, "resnet50", "expected a model out of"),
        (None, NAME, "found no file"),
        (b"", NAME, "got an empty file"),
        (Path, NAME, "found a folder"),
    ],
)
def test_what_goes_wrong_is_one_sentence_and_leaves_nothing_behind(tmp_path, capsys, content, model, message):
    source, target = tmp_path / "in.pth", tmp_path / "out" / "converted.safetensors"
    if content is Path:
        source.mkdir()
    elif isinstance(content, bytes):
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
    assert lines[2].split() == ["tap_rvt_base_plus", "89.4", "0.33", "358", "83.1", "44.7", "32.7", "29.6"]
    assert any("arXiv:2303.11126" in line for line in lines[3:])
    assert "weights of tap_rvt_*: https://github.com/guoyongcs/TAPADL; licence: see the page" in lines


def test_models_lists_every_model_in_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = [line for line in lines[1:] if not line.startswith(("scores", "weights"))]
    assert [line.split()[0] for line in table] == [p + name for name in VARIANTS for p in ("", "tap_")]
    assert all(len(line.split()) == 8 and "…" not in line for line in table)


def test_expected_bytes_are_those_of_a_file_behind_its_header(tmp_path):
    path = tmp_path / "model.safetensors"
    model = timm.create_model(NAME)
    save_file(model.state_dict(), path)
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert expected_bytes(model) == path.stat().st_size - header


@pytest.mark.parametrize("name", [name for name, published in PUBLISHED.items() if published.recipe])
def test_recipes_of_published_models_are_for_these_models(name):
    path, _, options = PUBLISHED[name].recipe.partition(" with ")
    text = (Path(__file__).parents[2] / path).read_text()
    assert options in text
    named = re.findall(r"--model.name (\S+)", options) or re.findall(r"^  name: (\S+)", text, re.MULTILINE)
    assert named[0].removeprefix("tap_") == name.removeprefix("tap_")
    assert ("--tap.enabled false" in options) == (not name.startswith("tap_"))


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
    images = {"count": 4, "num_classes": 5, "subset": None, "fingerprints": ["a set"]}
    benchmark = BenchmarkResult("imagenet", "stored", images, {}, cells)
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


def test_what_training_says_of_the_model_stays_with_it(released, tmp_path, capsys):
    _, model = released
    config = {
        "architecture": NAME,
        "num_classes": 5,
        "pretrained_cfg": model.pretrained_cfg | {"mean": [0.1, 0.2, 0.3], "num_classes": 5},
        "model_args": {"img_size": 192},
    }
    ours = tmp_path / "ours.safetensors"
    facts = {"config": json.dumps(config), "tap_temperature": "1.0"}
    save_file(model.state_dict(), ours, facts)
    for target in ("again.safetensors", "folder"):
        assert cli.main(["convert", str(ours), str(tmp_path / target), "--model", NAME]) == 0
        assert load_model(str(tmp_path / target)).preprocessing.mean == (0.1, 0.2, 0.3)
    assert '"' not in (tmp_path / "folder" / "README.md").read_text().split("```")[0]

    save_file(model.state_dict(), ours, facts | {"tap_temperature": "2.0"})
    words = ["convert", str(ours), str(tmp_path / "hot.safetensors"), "--model", NAME]
    assert cli.main(words) == 0
    assert metadata_of(tmp_path / "hot.safetensors")["tap_temperature"] == "2.0"
    capsys.readouterr()
    assert cli.main(["convert", str(ours), str(tmp_path / "hot"), "--model", NAME]) == 1
    assert "a .safetensors file for TAP of temperature 2.0" in capsys.readouterr().err


def test_a_folder_that_cannot_be_replaced_is_still_there(released, tmp_path, monkeypatch):
    path, _ = released
    words = ["convert", str(path), str(tmp_path / "out"), "--model", NAME, "--overwrite"]
    assert cli.main(words) == 0
    before = sorted(file.name for file in (tmp_path / "out").iterdir())
    rename = Path.rename

    def full(self, target):
        if self.name.endswith(".tmp"):
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", full)
    assert cli.main(words) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == before
