import gzip
import json
from pathlib import Path

import pytest
import timm
import torch

from tapadl.models import VARIANTS
from tapadl.models.convert import from_official, num_classes_of, to_official

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = [prefix + name for name in VARIANTS for prefix in ("", "tap_")]


def state_dict_of(name, **options):
    with torch.device("meta"):
        return timm.create_model(name, **options).state_dict()


@pytest.mark.parametrize("name", NAMES)
def test_to_official_and_back_is_the_identity(name):
    ours = state_dict_of(name, num_classes=7)
    official = to_official(ours, name)
    assert len(official) == len(ours)
    back = from_official(official, name)
    assert {key: id(tensor) for key, tensor in back.items()} == {key: id(t) for key, t in ours.items()}


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("tap_[fr]*.json.gz")), ids=lambda path: path.name)
def test_names_and_shapes_are_those_of_the_released_models(path):
    facts = json.loads(gzip.decompress(path.read_bytes()))
    released = {key: tuple(shape) for key, shape, _ in facts["state_dict"]}
    name = facts["model"]
    ours = to_official(state_dict_of(name), name)
    assert {key: tuple(tensor.shape) for key, tensor in ours.items()} == released
    assert list(ours) == list(released)


def test_swin_is_renamed_as_its_own_release_names_it():
    name = "fan_swin_tiny_patch4_window7_224"
    ours = state_dict_of(name)
    official = to_official(ours, name)
    assert "layers.0.downsample.reduction.weight" in official
    assert "head.weight" in official
    assert not any("layers.3.downsample" in key for key in official)
    official["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    official["layers.0.blocks.1.attn.relative_position_index"] = torch.zeros(49, 49)
    assert from_official(official, name).keys() == ours.keys()


def test_the_number_of_classes_is_that_of_the_weights():
    for name in ("fan_tiny_12_p16_224", "fan_swin_tiny_patch4_window7_224", "rvt_tiny"):
        assert num_classes_of(state_dict_of(name, num_classes=21), name) == 21
        assert num_classes_of(state_dict_of(name, num_classes=0), name) == 0


@pytest.mark.parametrize(
    ("name", "key", "other", "message"),
    [
        ("rvt_tiny_plus", "transformers.0.blocks.0.attn.att_mask", torch.zeros(6, 100, 100),
         r"att_mask of shape \(6, 100, 100\) instead of \(6, 196, 196\)"),
        ("fan_swin_tiny_patch4_window7_224", "layers.0.blocks.0.attn.relative_position_bias_table",
         torch.zeros(23 * 23, 3), r"position_bias_table of shape \(529, 3\) instead of \(169, 3\)"),
        ("fan_tiny_12_p16_224", "pos_embed.token_projection.weight", torch.zeros(96, 64, 1, 1),
         r"token_projection.weight of shape \(96, 64, 1, 1\) instead of \(192, 64, 1, 1\)"),
        ("rvt_tiny", "head.bias", torch.zeros(9), r"head.bias of shape \(9,\) instead of \(1000,\)"),
        ("rvt_tiny", "head.weight", torch.tensor(1.0), r"head.weight of shape \(\) instead of \(1, 384\)"),
        ("rvt_tiny", "norm.bias", torch.zeros(384, dtype=torch.int64), "in torch.int64 instead of"),
        ("rvt_tiny", "norm.bias", torch.zeros(384) * 1j, "in torch.complex64 instead of torch.float32"),
    ],
)  # fmt: skip
def test_positions_and_heads_of_another_size_or_kind_are_refused_by_name(name, key, other, message):
    official = to_official(state_dict_of(name), name)
    assert key in official
    with pytest.raises(ValueError, match=message):
        from_official(official | {key: other}, name)


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("rvt_tiny", "tap_rvt_tiny", r"hold no TAP, .* of tap_rvt_tiny; the model without it is rvt_tiny"),
        ("tap_rvt_tiny", "rvt_tiny", r"hold TAP, so they .* of rvt_tiny; the model with it is tap_rvt_tiny"),
        ("rvt_tiny", "rvt_tiny_plus", r"rvt_tiny_plus: without transformers\.0\.blocks\.0\.attn\.att_mask"),
        ("rvt_tiny_plus", "rvt_tiny", r"not of rvt_tiny: with .*att_mask.* and 8 more too much"),
        ("rvt_small", "rvt_tiny", r"of shape \(\d+.*\) instead of"),
        ("rvt_tiny", "fan_tiny", "expected a model out of fan_tiny_12_p16_224"),
    ],
)  # fmt: skip
def test_weights_of_another_model_are_refused_in_words(source, target, message):
    official = to_official(state_dict_of(source), source)
    with pytest.raises(ValueError, match=message):
        from_official(official, target)
