import json

import pytest
import torch
from safetensors.torch import save_file

from tapadl.data.segmentation import LabelScheme
from tapadl.models.sharing import DESCRIPTION, convert
from tapadl.tasks.segmentation.loading import open_segmenter
from tapadl.tasks.segmentation.model import SegmenterDescription

OWN = """
from types import SimpleNamespace

import torch
from tapadl.data.segmentation import LabelScheme

SCHEME = LabelScheme(("off", "on"), (0, 1), (), ((0, 0, 0), (255, 255, 255)))

def like():
    return torch.nn.Conv2d(3, 2, 1), SimpleNamespace(scheme=SCHEME, mean=[0.5] * 3, std=[0.2] * 3)

def model_alone():
    return torch.nn.Conv2d(3, 2, 1)

def undescribed():
    return torch.nn.Conv2d(3, 2, 1), {"mean": 0}
"""


@pytest.fixture(autouse=True)
def own_module(tmp_path, monkeypatch):
    (tmp_path / "own_segmenters.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)


def test_file_of_a_training_is_read_with_all_that_it_says(tmp_path):
    scheme = LabelScheme(("off", "on"), (0, 1), (), ((0, 0, 0), (255, 255, 255)))
    description = SegmenterDescription(
        "test_vit", scheme, (0.5,) * 3, (0.25,) * 3, head_dim=8, options={"depth": 2}
    )
    model = description.build().eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors", {DESCRIPTION: description.to_text()})
    loaded = open_segmenter(str(tmp_path / "model.safetensors"))
    assert loaded.description == description
    assert json.loads(description.to_text())["backbone"] == loaded.name
    images = torch.rand(1, 3, 32, 48)
    assert torch.equal(loaded.model(images), model(images))


def test_what_a_file_says_of_its_classes_outlives_a_conversion(tmp_path):
    scheme = LabelScheme(("off", "on"), (0, 1), (), ((0, 0, 0), (255, 255, 255)))
    name = "fan_tiny_12_p16_224"
    description = SegmenterDescription(name, scheme, (0.5,) * 3, (0.25,) * 3, head_dim=8)
    own = tmp_path / "own.safetensors"
    save_file(description.build().state_dict(), own, {DESCRIPTION: description.to_text()})
    convert(own, tmp_path / "shared.safetensors", name)
    assert open_segmenter(str(tmp_path / "shared.safetensors")).description == description


def test_function_of_ones_own_says_scheme_mean_and_std():
    loaded = open_segmenter("own_segmenters:like")
    assert (loaded.name, loaded.description.mean) == ("own_segmenters:like", (0.5,) * 3)
    assert loaded.description.scheme.class_names == ("off", "on")
    assert not loaded.model.training
    assert len(loaded.weights_sha256) == 64


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("own_segmenters:model_alone", r"to return \(model, description\).* got Conv2d"),
        ("own_segmenters:undescribed", "a description with scheme .* got dict"),
        ("own_segmenters:nothing", "found no function nothing"),
        ("nowhere:nothing", "found no module nowhere"),
        ("vit_tiny_patch16_224", "as a .safetensors file of tapadl train or tapadl convert, or as module"),
        ("missing.safetensors", "there is no such file"),
    ],
)
def test_what_is_no_segmenter_is_refused_in_a_sentence(spec, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_segmenter(spec)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"backbone": "hf-hub:someone/vit"},
            "name of a model of timm as backbone in .*, got 'hf-hub:someone/vit'",
        ),
        ({"options": {"checkpoint_path": "notes.bin"}}, "got checkpoint_path, which loads something"),
        (
            {"options": {"pretrained_cfg_overlay": {"url": "http://x"}}},
            "got pretrained_cfg_overlay, which loads",
        ),
        ({"options": {"foo": 1}}, "could not build the segmenter that strange.safetensors describes"),
        ({"tap": {"foo": 1}}, "could not build the segmenter that strange.safetensors describes"),
    ],
)
def test_a_file_of_a_stranger_opens_nothing_else(tmp_path, change, message):
    scheme = LabelScheme(("off", "on"), (0, 1), (), ((0, 0, 0), (255, 255, 255)))
    description = SegmenterDescription("test_vit", scheme, (0.5,) * 3, (0.25,) * 3, head_dim=8)
    text = json.dumps(json.loads(description.to_text()) | change)
    save_file(description.build().state_dict(), tmp_path / "strange.safetensors", {DESCRIPTION: text})
    with pytest.raises(ValueError, match=message):
        open_segmenter(str(tmp_path / "strange.safetensors"))
