import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tapadl.cli import main
from tapadl.models.sharing import DESCRIPTION
from tapadl.tasks.segmentation.evaluation.benchmarks import BENCHMARKS
from tapadl.tasks.segmentation.evaluation.result import SegmentationResult

MODEL = """
import torch
from tapadl.data.segmentation import CITYSCAPES, LabelScheme
from tapadl.tasks.segmentation.model import SegmenterDescription

COLOURS = ((10, 20, 30), (200, 40, 60), (90, 220, 120))
OWN = LabelScheme(("night", "brick", "leaf"), (0, 1, 2), (255,), COLOURS)

class Nearest(torch.nn.Module):
    def __init__(self, scheme, blind=0):
        super().__init__()
        self.colours = torch.tensor(scheme.colours) / 255
        self.blind = blind

    def forward(self, images):
        logits = -(images[:, None] - self.colours[None, :, :, None, None]).square().sum(dim=2)
        logits[:, :, :, : self.blind] = torch.eye(len(self.colours))[0][None, :, None, None]
        return logits

def describe(scheme):
    return SegmenterDescription("Nearest", scheme, (0.0,) * 3, (1.0,) * 3)

def own():
    return Nearest(OWN), describe(OWN)

def half_blind():
    return Nearest(OWN, blind=8), describe(OWN)

def renamed():
    scheme = LabelScheme(("night", "stone", "leaf"), (0, 1, 2), (), COLOURS)
    return Nearest(scheme), describe(scheme)

def streets():
    return Nearest(CITYSCAPES), describe(CITYSCAPES)
"""
COLOURS = np.array([(10, 20, 30), (200, 40, 60), (90, 220, 120)], dtype=np.uint8)
FAST = ["--workers", "0", "--device", "cpu"]


@pytest.fixture(autouse=True)
def own_model(tmp_path, monkeypatch):
    (tmp_path / "own_scenes.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.fixture
def folder():
    """Four scenes whose colours say their classes."""
    root = Path("scenes")
    for index in range(4):
        for name in ("images", "masks"):
            (root / "val" / name).mkdir(parents=True, exist_ok=True)
        mask = np.random.default_rng(index).integers(0, 3, (4, 5), dtype=np.uint8)
        mask = mask.repeat(6 + index, axis=0).repeat(7, axis=1)
        Image.fromarray(COLOURS[mask]).save(root / "val" / "images" / f"{index}.png")
        Image.fromarray(mask).save(root / "val" / "masks" / f"{index}.png")
    classes = {"class_names": ["night", "brick", "leaf"], "colours": COLOURS.tolist()}
    (root / "classes.json").write_text(json.dumps(classes))
    return str(root)


def evaluate(*words, model="own", benchmark="segmentation-folder-c", data="scenes", out="out"):
    return main(
        [
            *("evaluate", "--task", "segmentation", "--model", f"own_scenes:{model}"),
            *("--benchmark", benchmark, "--data", data, "--out", out, *FAST, *words),
        ]
    )


FEW = ("--corruptions", "fog", "gaussian_noise", "--severities", "1", "5")


def test_an_evaluation_writes_its_result_its_pages_and_a_table(folder, capsys):
    assert evaluate(*FEW) == 0
    printed = capsys.readouterr().out
    result = SegmentationResult.load("out/result.json")
    (found,) = result.benchmarks
    assert found.metrics["miou"] == 1
    assert 0 < found.metrics["mean_corrupted_miou"] < 1
    assert found.images["count"] == 4
    assert found.notes["constants_scaled"]
    for value in found.metrics.values():
        assert f"{100 * value:.1f} %" in printed
    assert "--out" not in result.command
    assert "--data DIR" in result.command
    page = Path("out/report.html").read_text()
    assert "data:image/jpeg" in page
    assert "brick" in page
    assert Path("out/report.md").stat().st_size > 500


def test_finished_evaluation_is_left_alone_and_an_unfinished_one_goes_on(folder, capsys):
    assert evaluate(*FEW) == 0
    before = json.loads(Path("out/result.json").read_text())["benchmarks"]
    assert evaluate(*FEW) == 1
    assert "holds a finished segmentation evaluation" in capsys.readouterr().err
    for name in ("result.json", "report.html", "report.md"):
        Path("out", name).unlink()
    unit = sorted(Path("out/units").iterdir())[1]
    unit.write_bytes(unit.read_bytes()[:-30])
    assert evaluate(*FEW, "--seed", "1") == 1
    assert "differs in settings seed" in capsys.readouterr().err
    assert evaluate(*FEW) == 0
    assert "going on with the unfinished evaluation in out" in capsys.readouterr().out
    assert json.loads(Path("out/result.json").read_text())["benchmarks"] == before


def test_predictions_are_masks_named_like_the_images(folder, capsys):
    assert evaluate("--predictions", benchmark="segmentation-folder") == 0
    for index in range(4):
        mask = np.array(Image.open(f"out/predictions/segmentation-folder/clean/{index}.png"))
        assert np.array_equal(mask, np.array(Image.open(f"scenes/val/masks/{index}.png")))
    # killed while it wrote, and started again
    Path("out/result.json").unlink()
    half_written = Path("out/predictions/segmentation-folder/clean/.0.png.7.tmp")
    half_written.write_bytes(b"half")
    assert evaluate("--predictions", benchmark="segmentation-folder") == 0
    assert not half_written.exists()
    assert evaluate("--overwrite", benchmark="segmentation-folder") == 1
    assert "found those of an earlier evaluation" in capsys.readouterr().err


def test_windows_flips_and_scales_are_part_of_the_result(folder):
    words = ("--window", "16", "--flip", "--scales", "0.5", "1")
    assert evaluate(*words, benchmark="segmentation-folder") == 0
    settings = SegmentationResult.load("out/result.json").settings["prediction"]
    assert (settings["window"], settings["flip"], settings["scales"]) == (16, True, [0.5, 1.0])


def test_segmenters_are_compared_with_intervals_and_a_page(folder, capsys):
    for copy in (4, 5):  # of fewer than six scenes nothing is said
        for name in ("images", "masks"):
            original = Path("scenes", "val", name, "0.png")
            shutil.copy(original, original.with_stem(str(copy)))
    for model in ("own", "half_blind"):
        assert evaluate(*FEW, model=model, out=model) == 0
    capsys.readouterr()
    assert main(["compare", "half_blind", "own", "--out", "compared"]) == 0
    printed = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if line.strip().startswith("mIoU"))
    assert "100.0 %" in row
    assert row.split()[-1] == "right"
    assert "By class" in Path("compared/report.html").read_text()


def test_segmentation_and_classification_are_not_compared(folder, capsys):
    assert evaluate(benchmark="segmentation-folder") == 0
    Path("other.json").write_text(json.dumps({"kind": "evaluation", "schema": 1}))
    capsys.readouterr()
    assert main(["compare", "other.json", "out"]) == 1
    assert "expected results of one task, got one of segmentation in out" in capsys.readouterr().err


SKY, ROAD = (70, 130, 180), (128, 64, 128)


def write_street(image_path, label_path=None, horizon=6, values=(23, 7)):
    """Sky above the horizon, road below; in label files by their numbers."""
    image = np.zeros((12, 16, 3), dtype=np.uint8)
    image[:6], image[6:] = SKY, ROAD
    labels = np.full((12, 16), values[1], dtype=np.uint8)
    labels[:horizon] = values[0]
    for path, pixels in ((image_path, image), (label_path, labels)):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)


@pytest.mark.parametrize("clean", [True, False])
def test_stored_cityscapes_c_is_shown_as_it_lies_there(clean, capsys):
    root = Path("cityscapes")
    for city, horizon in (("frankfurt", 6), ("lindau", 3)):
        label = root / "gtFine" / "val" / city / f"{city}_0_gtFine_labelIds.png"
        for cell in ("fog/1", "fog/2", "shot_noise/1"):
            write_street(root / "leftImg8bit-c" / cell / city / f"{city}_0_leftImg8bit.png", label, horizon)
        if clean:
            write_street(root / "leftImg8bit" / "val" / city / f"{city}_0_leftImg8bit.png")
    options = {"model": "streets", "benchmark": "cityscapes-c", "data": "cityscapes"}
    assert evaluate(**options) == 1
    assert "found none; name those that are there" in capsys.readouterr().err
    words = ("--corruptions", "fog", "shot_noise", "--severities", "1")
    assert evaluate(*words, **options) == 0
    (found,) = SegmentationResult.load("out/result.json").benchmarks
    assert found.form == "stored"
    # of sky 72 + 36 pixels are right of 144 that were predicted, of road 144 of 180 labelled
    miou = (108 / 144 + 144 / 180) / 2
    assert found.metrics["mean_corrupted_miou"] == pytest.approx(miou)
    assert found.metrics.get("miou") == (pytest.approx(miou) if clean else None)


def test_acdc_gives_miou_by_condition_and_of_all_together():
    root = Path("acdc")
    for place, condition in enumerate(("fog", "night", "rain", "snow")):
        image = root / "rgb_anon" / condition / "val" / "GOPR0" / "GOPR0_frame_1_rgb_anon.png"
        label = root / "gt" / condition / "val" / "GOPR0" / "GOPR0_frame_1_gt_labelTrainIds.png"
        write_street(image, label, 6 if place else 3, values=(10, 0))
    assert evaluate(model="streets", benchmark="acdc", data="acdc") == 0
    (found,) = SegmentationResult.load("out/result.json").benchmarks
    assert found.images["count"] == 4
    assert found.metrics["miou_night"] == 1
    assert found.metrics["miou_fog"] == pytest.approx((0.5 + 6 / 9) / 2)
    sky, road = (3 + 3 * 6) / (4 * 6), (4 * 6) / (9 + 3 * 6)
    assert found.metrics["miou"] == pytest.approx((sky + road) / 2)


def test_split_without_labels_is_predicted_in_label_ids(capsys):
    name = "berlin_000000_000019_leftImg8bit.png"
    write_street(Path("cityscapes") / "leftImg8bit" / "test" / "berlin" / name)
    words = ("--split", "test")
    options = {"model": "streets", "benchmark": "cityscapes", "data": "cityscapes"}
    assert evaluate(*words, **options) == 1
    assert "expected labels of cityscapes, but this split has none; add --predictions" in (
        capsys.readouterr().err
    )
    assert evaluate(*words, "--predictions", **options) == 0
    mask = np.array(Image.open(f"out/predictions/cityscapes/clean/{name}"))
    assert (mask[:6] == 23).all()
    assert (mask[6:] == 7).all()
    assert SegmentationResult.load("out/result.json").benchmarks[0].metrics == {}
    assert "no labels" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "options", "message"),
    [
        ([], {"benchmark": "cityscape-c"}, "did you mean cityscapes-c?"),
        ([], {"benchmark": "imagenet-c"}, "expected a benchmark of segmentation out of cityscapes"),
        ([], {"model": "renamed"}, "whose class 1 is 'brick', got 'stone' there"),
        ([], {"model": "streets"}, "a segmenter of the 3 classes of segmentation-folder-c"),
        ([], {"data": "nowhere"}, "nowhere"),
        (["--attack", "pgd"], {}, "expected no --attack with --task segmentation"),
        (["--batch-size", "8"], {}, "expected no --batch-size with --task segmentation"),
        (["--corruptions", "frog"], {}, "got 'frog'"),
        (["--severities", "6"], {}, "expected severities out of 1, 2, 3, 4, 5, got 6"),
        (["--severities", "3"], {"benchmark": "segmentation-folder"}, "a benchmark with corruptions"),
        (["--stride", "4"], {}, "a window for the stride 4"),
        (["--subset", "9"], {}, "a subset of 1 to 4 images"),
        (["--split", "train"], {}, "train"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_no_result(folder, words, options, message, capsys):
    assert evaluate(*words, **options) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not Path("out/result.json").exists()


def test_options_of_segmentation_are_refused_without_it(capsys):
    words = ["--model", "vit_tiny_patch16_224", "--benchmark", "embedded", "--window", "64"]
    assert main(["evaluate", *words]) == 1
    assert "expected --window with --task segmentation alone" in capsys.readouterr().err


def test_scenes_and_segmenters_without_the_task_are_told_of_it(tmp_path, capsys):
    for name in BENCHMARKS:
        assert main(["evaluate", "--model", "vit_tiny_patch16_224", "--benchmark", name, "--data", "x"]) == 1
        assert f"expected {name} with --task segmentation alone" in capsys.readouterr().err
    weights = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(1)}, weights, {DESCRIPTION: "{}"})
    assert main(["evaluate", "--model", str(weights), "--benchmark", "embedded"]) == 1
    assert "holds a segmenter; evaluate it with --task segmentation" in capsys.readouterr().err


def test_a_benchmark_is_named_once(folder, capsys):
    words = ["--benchmark", "segmentation-folder", "segmentation-folder", "--data", "scenes"]
    assert main(["evaluate", "--task", "segmentation", "--model", "own_scenes:own", *words]) == 1
    assert "expected each benchmark once, got segmentation-folder twice" in capsys.readouterr().err


def test_help_names_every_benchmark_with_its_title(capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    for name, benchmark in BENCHMARKS.items():
        assert name in printed
        if not name.startswith("segmentation-folder"):
            assert f"{name} {benchmark.title}" in printed
