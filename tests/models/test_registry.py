import pytest
import timm
import torch

from tapadl.models import VARIANTS
from tapadl.models.registry import build

ALL_NAMES = [prefix + name for name in VARIANTS for prefix in ("", "tap_")]


def parameters_of(name):
    with torch.device("meta"):
        return dict(timm.create_model(name).named_parameters())


def test_every_model_is_known_to_timm_plain_and_with_tap():
    assert set(ALL_NAMES) <= set(timm.list_models())
    assert len(ALL_NAMES) == 38


def test_a_model_is_created_by_name_for_images_that_are_not_square():
    model = timm.create_model("tap_fan_base_16_p4_hybrid", num_classes=10, img_size=(192, 256)).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, 192, 256)).shape == (1, 10)
    assert [hasattr(site.block, "tap") for site in model.attention_sites()] == [True] * 16


@pytest.mark.parametrize("name", VARIANTS)
def test_tap_adds_its_predictor_to_every_token_attention_and_nothing_else(name):
    plain, with_tap = parameters_of(name), parameters_of("tap_" + name)
    own = {key: value for key, value in with_tap.items() if ".tap." in key}
    num_blocks = sum(VARIANTS[name].settings["depths"])
    assert len(own) == 4 * num_blocks
    widths = [value.shape[1] for key, value in own.items() if key.endswith("proj.0.weight")]
    assert sum(value.numel() for value in own.values()) == sum(36 * width + 152 for width in widths)
    if not VARIANTS[name].tap_settings:
        assert {key: value.shape for key, value in plain.items()} == {
            key: value.shape for key, value in with_tap.items() if key not in own
        }


@pytest.mark.parametrize("name", ["fan_Xlarge_16_p4_hybrid", "tap_fan_Xlarge_16_p4_hybrid"])
def test_xlarge_changes_width_behind_block_19(name):
    parameters = parameters_of(name)
    assert parameters["blocks.19.downsample.proj.weight"].shape == (768, 528, 3, 3)
    assert parameters["blocks.19.norm1.weight"].shape == (528,)
    assert parameters["blocks.20.norm1.weight"].shape == (768,)
    assert parameters["pos_embed.token_projection.weight"].shape == (528, 64, 1, 1)
    assert [key for key in parameters if "downsample.norm" in key and key.startswith("blocks")] == [
        "blocks.19.downsample.norm.weight",
        "blocks.19.downsample.norm.bias",
    ]


@pytest.mark.parametrize("name", ["rvt_base", "rvt_base_plus"])
def test_released_base_models_of_rvt_have_another_mlp_than_those_with_tap(name):
    assert parameters_of(name)["transformers.0.blocks.0.mlp.fc1.weight"].ndim == 2
    assert parameters_of("tap_" + name)["transformers.0.blocks.0.mlp.fc1.weight"].ndim == 4


@pytest.mark.parametrize("name", ALL_NAMES)
def test_every_width_of_every_model_learns_from_images_that_are_not_square(name):
    settings = VARIANTS[name.removeprefix("tap_")].settings
    model = timm.create_model(
        name, num_classes=5, img_size=(64, 96), depths=tuple(1 for _ in settings["depths"])
    )
    logits = model(torch.randn(2, 3, 64, 96))
    assert logits.shape == (2, 5)
    logits.square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("name", ALL_NAMES)
def test_timm_knows_how_to_prepare_images_and_where_first_layer_and_head_are(name):
    with torch.device("meta"):
        model = timm.create_model(
            name, depths=tuple(1 for _ in VARIANTS[name.removeprefix("tap_")].settings["depths"])
        )
    config = timm.data.resolve_data_config(model=model)
    assert config["input_size"] == (3, 224, 224)
    assert config["crop_pct"] == 1.0
    assert model.get_submodule(model.pretrained_cfg["first_conv"]).weight.shape[1] == 3
    assert model.get_submodule(model.pretrained_cfg["classifier"]) is model.get_classifier()
    assert model.pretrained_cfg["architecture"] == name


@pytest.mark.parametrize(
    ("name", "reductions"),
    [
        ("fan_tiny_12_p16_224", [16, 16, 16, 16]),
        ("tap_fan_base_16_p4_hybrid", [4, 8, 16, 16]),
        ("fan_Xlarge_16_p4_hybrid", [4, 8, 16, 32]),
        ("fan_swin_tiny_patch4_window7_224", [4, 8, 16, 32]),
        ("rvt_tiny", [16, 32]),
        ("tap_rvt_small_plus", [16, 16, 16]),
    ],
)
def test_features_are_those_of_the_table_where_nothing_else_is_asked_for(name, reductions):
    features = timm.create_model(name, features_only=True)
    assert features.feature_info.reduction() == reductions
    with torch.no_grad():
        maps = features(torch.randn(1, 3, 64, 96))
    assert [tuple(feature.shape[1:]) for feature in maps] == [
        (channels, 64 // reduction, 96 // reduction)
        for channels, reduction in zip(features.feature_info.channels(), reductions, strict=True)
    ]


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"expected one of fan_tiny_12_p16_224, .* got 'fan_giant'"):
        build("fan_giant")
