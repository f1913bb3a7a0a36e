"""Published layouts through the command, shown to a model that reads the answer out of the first pixel."""

import shutil
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tapadl.cli import main
from tapadl.data.class_names import wordnet_ids
from tapadl.data.stored import IMAGENET_3DCC, IMAGENET_C_ARCHIVES
from tapadl.evaluation.benchmark_result import EvaluationResult

SIDE = 16
MODEL = f"""
import torch
from tapadl.evaluation.preprocessing import Preprocessing

class Reader(torch.nn.Module):
    def forward(self, images):
        low, high, decoy = (images[:, :, 0, 0] * 255).round().long().unbind(1)
        answer = torch.nn.functional.one_hot((low + 256 * high).clamp(max=999), 1000).float()
        answer[:, 0] += 2 * decoy
        return answer

def reader():
    # stored images would lose their first pixel to this crop
    return Reader(), Preprocessing(({SIDE}, {SIDE}), (0.0,) * 3, (1.0,) * 3, crop_pct=0.5)
"""


@pytest.fixture(autouse=True)
def own_model(tmp_path, monkeypatch):
    (tmp_path / "own_reader.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def evaluate(benchmark, root, *words):
    words = ["--model", "own_reader:reader", "--benchmark", benchmark, "--data", str(root), *words]
    return main(["evaluate", "--workers", "0", "--device", "cpu", "--out", "out", *words])


def result_of(benchmark, root, *words):
    assert evaluate(benchmark, root, *words) == 0
    return EvaluationResult.load("out/result.json").benchmark(benchmark)


def colour(answer, decoy=False):
    return (answer % 256, answer // 256, int(decoy))


def write_clean(path, answer, decoy=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), colour(answer, decoy)).save(path)


def write_stored(path, answer, side=SIDE):
    """The answer in the first pixel alone."""
    image = Image.new("RGB", (side, side), colour(999))
    image.putpixel((0, 0), colour(answer))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def part_of_the_classes(name):
    return (files("timm.data") / "_info" / f"{name.replace('-', '_')}_synsets.txt").read_text().split()


@pytest.mark.parametrize("name", ["imagenet", "imagenet-a", "imagenet-r", "imagenet-sketch", "imagenet-v2"])
def test_every_answer_is_right_where_labels_and_outputs_are(name, tmp_path):
    ids = wordnet_ids()
    some = name in ("imagenet-a", "imagenet-r")
    for one in part_of_the_classes(name) if some else ids:
        answer = ids.index(one)
        folder = str(answer) if name == "imagenet-v2" else one
        # a larger logit of a class outside the 200 does not count
        write_clean(tmp_path / "data" / folder / "0.png", answer, decoy=some)
    found = result_of(name, "data")
    assert ids[0] not in part_of_the_classes("imagenet-a") + part_of_the_classes("imagenet-r")
    assert found.images["num_classes"] == (200 if some else 1000)
    assert (found.metrics()["error"], found.form) == (0, "stored")


def write_corruptions(root, names, side=SIDE, archives=False):
    for answer in (3, 700):
        write_stored(Path("one.png"), answer, side)
        for name in names:
            above = next((a for a, inside in IMAGENET_C_ARCHIVES.items() if name in inside), "")
            for severity in "12345":
                folder = root / (above if archives else "") / name / severity / wordnet_ids()[answer]
                folder.mkdir(parents=True)
                shutil.copyfile("one.png", folder / "0.png")


@pytest.fixture
def two_classes(monkeypatch):
    """ImageNet as if it had only the classes that `write_corruptions` writes."""
    ids = tuple(wordnet_ids()[answer] for answer in (3, 700))
    monkeypatch.setattr("tapadl.evaluation.benchmarks.wordnet_ids", lambda: ids)


FIFTEEN = [name for archive, names in IMAGENET_C_ARCHIVES.items() if archive != "extra" for name in names]


@pytest.mark.parametrize("archives", [True, False])
def test_stored_images_are_shown_as_they_are(tmp_path, archives, two_classes):
    write_corruptions(tmp_path / "c", FIFTEEN, archives=archives)
    found = result_of("imagenet-c", "c")
    assert found.form == "stored"
    assert len(found.records) == 75
    assert {error for cells in found.errors.values() for error in cells.values()} == {0}
    assert found.metrics()["mce"] == 0


def test_3dcc_has_a_mean_error_and_no_mce(tmp_path, two_classes):
    write_corruptions(tmp_path / "c", IMAGENET_3DCC)
    found = result_of("imagenet-3dcc", "c")
    assert len(found.records) == 60
    assert found.metrics()["mean_corrupted_error"] == 0
    assert "mce" not in found.metrics()
    assert "no mCE" in Path("out/report.html").read_text()


def test_films_are_compared_with_the_frame_before_and_films_of_noise_with_the_first(tmp_path, capsys):
    av = pytest.importorskip("av")
    answers = [7] * 4 + [9] * 4
    for name in ("tilt", "gaussian_noise"):
        for wordnet_id in wordnet_ids()[:2]:
            path = tmp_path / "p" / name / wordnet_id / "0.mp4"
            path.parent.mkdir(parents=True)
            with av.open(str(path), "w") as container:
                stream = container.add_stream("libx264rgb", rate=1, options={"crf": "0"})
                stream.height, stream.width, stream.pix_fmt = SIDE, SIDE, "rgb24"
                for answer in answers:
                    frame = np.broadcast_to(np.uint8(colour(answer)), (SIDE, SIDE, 3))
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(frame.copy(), format="rgb24")))
                container.mux(stream.encode(None))
    assert evaluate("imagenet-p", "p") == 1
    assert "expected all 10 perturbations of ImageNet-P in p, shot_noise," in capsys.readouterr().err
    found = result_of("imagenet-p", "p", "--corruptions", "tilt", "gaussian_noise")
    flips = {
        record.cell.condition: (record.items["flips"] / record.items["pairs"]).tolist()
        for record in found.records
    }
    assert found.form == "stored"
    assert flips == {"tilt": [1 / 7] * 2, "gaussian_noise": [4 / 7] * 2}
    next((tmp_path / "p" / "tilt").glob("*/0.mp4")).rename(
        tmp_path / "p" / "tilt" / wordnet_ids()[1] / "1.mp4"
    )
    (tmp_path / "p" / "tilt" / wordnet_ids()[0]).mkdir(exist_ok=True)
    shutil.copy(
        tmp_path / "p" / "tilt" / wordnet_ids()[1] / "1.mp4",
        tmp_path / "p" / "tilt" / wordnet_ids()[0] / "0.mp4",
    )
    assert evaluate("imagenet-p", "p", "--corruptions", "all") == 1
    assert "expected the same films in p/tilt as in p/gaussian_noise" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "root", "message"),
    [
        (
            "size",
            "c",
            "expected stored pictures of the model's size, 16 x 16 pixels (height x width), got 24 x 24",
        ),
        ("severity", "c", "expected the severities 1 to 5 as folders in c/fog, 4 missing"),
        ("corruption", "c", "expected all 15 corruptions of ImageNet-C in c, fog missing"),
        ("cut", "c", "expected a whole image at c/fog/4/"),
        ("class", "c", "expected the same class folders in c/fog/4"),
        ("above", ".", "if those are corruptions, . is one level too high"),
        ("below", "c/fog", "c/fog is one level too low"),
    ],
)
def test_what_is_wrong_with_a_stored_folder_is_one_sentence(
    tmp_path, spoil, root, message, capsys, two_classes
):
    write_corruptions(tmp_path / "c", FIFTEEN, side=24 if spoil == "size" else SIDE)
    (tmp_path / "one.png").unlink()
    cell = tmp_path / "c" / "fog" / "4"
    match spoil:
        case "severity":
            shutil.rmtree(cell)
        case "corruption":
            shutil.rmtree(cell.parent)
        case "class":
            shutil.rmtree(cell / wordnet_ids()[3])
        case "cut":
            image = next(cell.glob("*/*.png"))
            image.write_bytes(image.read_bytes()[:50])
    assert evaluate("imagenet-c", root) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(("name", "written"), [("imagenet-c", FIFTEEN), ("imagenet-3dcc", IMAGENET_3DCC)])
def test_stored_images_of_other_classes_are_not_imagenet(tmp_path, name, written, capsys):
    write_corruptions(tmp_path / "c", written)
    assert evaluate(name, "c") == 1
    assert "the 1000 class folders of ImageNet, named by WordNet id, in every folder of c, got 2 classes" in (
        capsys.readouterr().err
    )
    assert "mce" not in result_of("folder-c", "c").metrics()


def test_a_corruption_of_stored_images_is_not_put_through_jpeg_once_more(tmp_path, capsys):
    write_corruptions(tmp_path / "c", FIFTEEN)
    assert evaluate("imagenet-c", "c", "--jpeg85") == 1
    assert "corrupted in memory for JPEG, got stored ones in c" in capsys.readouterr().err
