import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

import tapadl
from tapadl.tasks.classification.model import build_model
from tapadl.training.settings import (
    AugmentationSettings,
    DataSettings,
    ModelSettings,
    Settings,
    TapSettings,
    TrainingSettings,
)

TINY = {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
FUNCTIONS = """
import torch
from tapadl.evaluation.preprocessing import Preprocessing

def linear(width=4):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, width))
    return model, Preprocessing((8, 8), (0.5,) * 3, (0.25,) * 3)
"""


def settings(name="vit_tiny_patch16_224", tap=None, seed=0, checkpointing=False, augmentation=None, **model):
    options = {"img_size": 32, "options": TINY} if name.startswith("vit") else {}
    return Settings(
        ModelSettings(name, **{**options, **model}),
        DataSettings("embedded"),
        tap=tap or TapSettings(),
        augmentation=augmentation or AugmentationSettings(),
        training=TrainingSettings(seed=seed, grad_checkpointing=checkpointing),
    )


def saved(tmp_path, model):
    path = tmp_path / "start.safetensors"
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
    return path


def test_with_one_seed_the_model_with_tap_has_the_weights_of_the_plain_one():
    with_tap = build_model(settings(seed=3), 5).model.state_dict()
    plain = build_model(settings(seed=3, tap=TapSettings(enabled=False)), 5).model.state_dict()
    assert all(torch.equal(with_tap[name], value) for name, value in plain.items())
    assert any(".tap." in name for name in with_tap)
    assert not torch.equal(
        plain["head.weight"], build_model(settings(seed=4), 5).model.state_dict()["head.weight"]
    )


def test_tap_is_attached_as_the_settings_say():
    tap = TapSettings(num_branches=3, temperature=2.0, init="identity", blocks=(1,))
    model = build_model(settings(tap=tap), 5).model
    assert not hasattr(model.blocks[0], "tap")
    assert model.blocks[1].tap.num_branches == 3
    assert model.blocks[1].tap.temperature == 2.0
    assert torch.equal(model.blocks[1].tap.gate, torch.zeros(16))


def test_a_model_with_tap_in_its_name_has_it_and_refuses_other_settings():
    built = build_model(settings("tap_rvt_tiny"), 5)
    assert sum(isinstance(m, tapadl.TokenAwareAveragePooling) for m in built.model.modules()) == 12
    with pytest.raises(ValueError, match="expected the default tap settings for tap_rvt_tiny"):
        build_model(settings("tap_rvt_tiny", tap=TapSettings(num_branches=2)), 5)


def test_size_drop_path_and_options_reach_timm_and_its_description():
    built = build_model(settings(drop_path=0.5, options={**TINY, "in_chans": 3}), 7)
    assert built.model.blocks[1].drop_path1.drop_prob == 0.5
    assert built.preprocessing.image_size == (32, 32)
    assert built.config["architecture"] == "vit_tiny_patch16_224"
    assert built.config["model_args"] == {"img_size": 32, **TINY, "in_chans": 3}
    assert built.config["pretrained_cfg"]["input_size"] == (3, 32, 32)
    assert built.config["num_classes"] == built.config["pretrained_cfg"]["num_classes"] == 7
    assert [type(block) for block in built.blocks()] == [type(built.model.blocks[0])] * 2


def test_what_is_said_of_the_images_goes_before_what_the_model_says():
    augmentation = AugmentationSettings(mean=(0.5,), std=(0.25,), crop_pct=0.8, interpolation="bilinear")
    built = build_model(settings(options={**TINY, "in_chans": 1}, augmentation=augmentation), 2)
    preprocessing = built.preprocessing
    assert (preprocessing.mean, preprocessing.std) == ((0.5,), (0.25,))
    assert (preprocessing.crop_pct, preprocessing.interpolation) == (0.8, "bilinear")
    assert preprocessing.channels == 1
    random = AugmentationSettings(interpolation="random")
    assert build_model(settings(augmentation=random), 2).preprocessing.interpolation == "bicubic"


def test_weights_of_a_file_are_the_start_and_a_head_of_other_classes_is_new(tmp_path):
    torch.manual_seed(9)
    start = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=5, **TINY)
    path = saved(tmp_path, start)
    same = build_model(settings(checkpoint=path), 5).model.state_dict()
    assert all(torch.equal(same[name], value) for name, value in start.state_dict().items())
    other = build_model(settings(checkpoint=path), 3).model
    assert torch.equal(other.blocks[0].attn.qkv.weight, start.blocks[0].attn.qkv.weight)
    assert other.head.weight.shape == (3, 16)
    larger = build_model(settings(checkpoint=path, img_size=48), 5).model
    assert larger.pos_embed.shape == (1, 37, 16)
    assert torch.equal(larger.blocks[1].mlp.fc1.weight, start.blocks[1].mlp.fc1.weight)


def test_tap_in_a_file_is_loaded_with_the_rest(tmp_path):
    torch.manual_seed(9)
    start = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=5, **TINY)
    tapadl.attach_tap(start, num_branches=3)
    path = saved(tmp_path, start)
    model = build_model(settings(checkpoint=path, tap=TapSettings(num_branches=3)), 5).model
    assert all(torch.equal(model.state_dict()[name], value) for name, value in start.state_dict().items())
    with pytest.raises(ValueError, match=r"of another shape .*start\.safetensors|start\.safetensors.*shape"):
        build_model(settings(checkpoint=path), 5)
    with pytest.raises(ValueError, match=r"tap\.enabled to be true, for .*start\.safetensors holds TAP"):
        build_model(settings(checkpoint=path, tap=TapSettings(enabled=False)), 5)


def test_weights_of_another_model_are_refused(tmp_path):
    path = saved(tmp_path, timm.create_model("vit_tiny_patch16_224", img_size=32, **{**TINY, "depth": 1}))
    with pytest.raises(
        ValueError, match=r"the weights in start\.safetensors do not fit vit_tiny_patch16_224"
    ):
        build_model(settings(checkpoint=path), 1000)


def test_a_function_of_ones_own_is_called_with_the_options(tmp_path, monkeypatch):
    (tmp_path / "own_for_training.py").write_text(FUNCTIONS)
    monkeypatch.chdir(tmp_path)
    off = TapSettings(enabled=False)
    built = build_model(settings("own_for_training:linear", tap=off, options={"width": 6}), 6)
    assert isinstance(built.model[1], nn.Linear)
    assert built.config is None
    assert built.blocks() == []
    with pytest.raises(ValueError, match=r"expected logits \(2, 5\) .* got \(2, 4\)"):
        build_model(settings("own_for_training:linear", tap=off), 5)
    with pytest.raises(ValueError, match=r"model\.img_size to be null .*--model\.options\.NAME"):
        build_model(settings("own_for_training:linear", tap=off, img_size=8), 4)
    other = AugmentationSettings(mean=(0.5,), std=(0.5,))
    with pytest.raises(ValueError, match=r"augmentation\.mean to be null"):
        build_model(settings("own_for_training:linear", tap=off, augmentation=other), 4)
    with pytest.raises(ValueError, match="found no attention to work on"):
        build_model(settings("own_for_training:linear"), 4)


def test_gradient_checkpointing_is_switched_on_or_refused(tmp_path, monkeypatch):
    assert build_model(settings(checkpointing=True), 5).model.grad_checkpointing
    (tmp_path / "own_for_checkpointing.py").write_text(FUNCTIONS)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="grad_checkpointing to be false for own_for_checkpointing:linear"):
        build_model(
            settings("own_for_checkpointing:linear", tap=TapSettings(enabled=False), checkpointing=True), 4
        )


def test_an_unknown_option_is_told_with_what_was_asked_for():
    with pytest.raises(ValueError, match=r"could not build vit_tiny_patch16_224 with .*'?foo'?"):
        build_model(settings(options={**TINY, "foo": 3}), 5)


@pytest.mark.parametrize(
    ("further", "message"),
    [
        ({"options": {**TINY, "num_classes": 3}}, "no num_classes in model.options where data.num_classes"),
        (
            {"options": {**TINY, "drop_path_rate": 0.1}, "drop_path": 0.2},
            "no drop_path_rate in model.options",
        ),
    ],
)
def test_an_option_that_another_setting_decides_is_refused(further, message):
    with pytest.raises(ValueError, match=message):
        build_model(settings(**further), 5)


def test_tap_of_another_temperature_than_asked_for_is_refused(tmp_path):
    path = tmp_path / "start.safetensors"
    tap = TapSettings(temperature=2.0)
    save_file(dict(build_model(settings(tap=tap), 5).model.state_dict()), path, {"tap_temperature": "2.0"})
    assert build_model(settings(checkpoint=path, tap=tap), 5).model.blocks[1].tap.temperature == 2.0
    with pytest.raises(ValueError, match=r"expected tap\.temperature 2, with which .* trained, got 1$"):
        build_model(settings(checkpoint=path), 5)
    rvt = timm.create_model("tap_rvt_tiny", num_classes=5)
    save_file(dict(rvt.state_dict()), path, {"tap_temperature": "2.0"})
    with pytest.raises(ValueError, match=r"expected rvt_tiny with tap\.temperature 2, with which .* got 1$"):
        build_model(settings("tap_rvt_tiny", checkpoint=path), 5)
