import re

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from tapadl.cli import main
from tapadl.diagnostics.explorer import DEFAULT_CORRUPTIONS, DEFAULT_MEGABYTES, DEFAULT_SEVERITIES
from tapadl.diagnostics.explorer.packing import unpack_page

OWN = """
import timm
from tapadl.evaluation.preprocessing import Preprocessing

def small():
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=16, depth=1, num_heads=2, num_classes=3
    )
    return model, Preprocessing((32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)

def wide():
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=(16, 32), patch_size=8, embed_dim=24, depth=2, num_classes=2
    )
    return model, Preprocessing((16, 32), mean=(0.5,) * 3, std=(0.5,) * 3, crop_mode="squash")

def convolution():
    return timm.create_model("test_resnet", num_classes=3)
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    (tmp_path / "own_explored.py").write_text(OWN)
    draw = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for name in ("a", "b"):
        pixels = draw.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def explore(*words, model="own_explored:small"):
    few = ["--corruptions", "contrast", "--severities", "2"]
    return main(["explore", *few, "--model", model, "--device", "cpu", "--out", "page.html", *words])


def header(tmp_path):
    (packed,) = re.findall(r'id="data">([^<]*)<', (tmp_path / "page.html").read_text(encoding="utf-8"))
    return unpack_page(packed)[0]


def test_page_of_a_folder_and_what_is_said(tmp_path, capsys):
    assert explore("photos") == 0
    said = capsys.readouterr().out
    assert "looks: 4 of 4" in said
    assert re.search(r"page: page\.html \(0\.\d MB\)", said)
    assert "thinned" not in said
    found = header(tmp_path)
    assert found["pictures"] == ["a", "b"]
    assert [(one["corruption"], one["severity"]) for one in found["conditions"]] == [("", 0), ("contrast", 2)]
    assert found["models"][0]["answers"][0][0][0][0].startswith("class ")


def test_two_models_of_other_sizes_and_classes_each_see_the_picture_in_their_way(tmp_path):
    assert explore("photos/a.png", "--compare", "own_explored:wide") == 0
    small, wide = header(tmp_path)["models"]
    assert (small["layers"][0]["grid"], wide["layers"][0]["grid"]) == ([4, 4], [2, 4])
    assert small["pictures"] != wide["pictures"]
    assert (len(small["answers"][0][0]), len(wide["answers"][0][0])) == (3, 2)


def test_weights_come_from_checkpoints_and_name_the_models(tmp_path):
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 3}
    model = timm.create_model("vit_tiny_patch16_224", **options)
    torch.nn.init.zeros_(model.head.weight)
    model.head.bias.data = torch.tensor([0.0, 0.0, 9.0])
    torch.save(model.state_dict(), tmp_path / "third.pth")
    (tmp_path / "names.txt").write_text("cat\ndog\nbird\n")
    words = [
        "--checkpoint",
        "third.pth",
        "--compare",
        "own_explored:small",
        "--compare-checkpoint",
        "third.pth",
    ]
    assert explore("photos/a.png", *words, "--classes", "names.txt") == 0
    found = header(tmp_path)
    assert [one["name"] for one in found["models"]] == ["third (1)", "third (2)"]
    assert found["models"][0]["answers"][0][0][0][:2] == ["bird", pytest.approx(0.9998, abs=1e-3)]


def test_page_is_replaced_only_when_asked(tmp_path, capsys):
    (tmp_path / "page.html").write_text("mine")
    assert explore("photos") == 1
    assert (tmp_path / "page.html").read_text() == "mine"
    assert "page.html is there already; name another file, or give --overwrite" in capsys.readouterr().err
    assert explore("photos", "--overwrite") == 0
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_what_was_thinned_out_is_said(tmp_path, capsys):
    assert explore("photos") == 0
    less = f"{((tmp_path / 'page.html').stat().st_size - 500) / 1e6:.6f}"
    assert explore("photos", "--overwrite", "--megabytes", less) == 0
    assert re.search(r"thinned out to stay below 0\.\d+ MB:\n  \w", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.png"], "nowhere.png"),
        (["own_explored.py"], "does not decode"),
        (["photos", "--corruptions", "rust"], "expected corruptions out of"),
        (["photos", "--severities", "7"], "expected severities from 1 to 5, got 7"),
        (["photos", "--megabytes", "0"], "expected --megabytes above 0, got 0"),
        (["photos", "--megabytes", "0.001"], "expected a page of at most 0.001 MB"),
        (["photos", "--compare-checkpoint", "x.pth"], "expected --compare beside --compare-checkpoint"),
        (["photos", "--classes", "own_explored.py"], "expected --classes with a line for each of 3 outputs"),
        (["photos", "--model", "own_explored:convolution"], "found no attention to work on"),
        (["photos", "--out", "photos"], "expected --out to name a file"),
        (["photos"] * 13, "expected at most 24 pictures for one page, got 26"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence_and_nothing_is_written(tmp_path, capsys, words, message):
    assert explore(*words) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "page.html").exists()


def test_defaults_in_the_help_are_those_of_the_library(capsys):
    with pytest.raises(SystemExit):
        main(["explore", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert f"(default: {' '.join(DEFAULT_CORRUPTIONS)})" in text
    assert f"(default: {' '.join(map(str, DEFAULT_SEVERITIES))})" in text
    assert f"(default: {DEFAULT_MEGABYTES:g})" in text
