import json
import math

import numpy as np
import pytest
import timm
import torch

import tapadl
from tapadl.diagnostics import dilation_maps, mean_dilation, measure_dilation


def make_vit():
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=(32, 48), patch_size=8, embed_dim=16, depth=2, num_heads=2
    )


@pytest.mark.parametrize("branch", [0, 3])
def test_all_weight_on_one_branch_is_its_dilation(branch):
    weights = torch.zeros(2, 4, 3, 5)
    weights[:, branch] = 1.0

    assert torch.equal(mean_dilation(weights), torch.full((2, 3, 5), float(branch)))


def test_maps_are_those_of_the_weights_that_the_forward_uses():
    model = tapadl.attach_tap(make_vit()).eval()
    images = torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        tokens = model.pos_drop(model._pos_embed(model.patch_embed(images)))
        expected = mean_dilation(model.blocks[0].tap.branch_weights(tokens, (4, 6), 1))

    first, second = dilation_maps(model, images)

    torch.testing.assert_close(first, expected)
    assert second.shape == (2, 4, 6)
    assert not model.blocks[0].tap._forward_pre_hooks


def test_statistics_of_a_model_in_training_stay():
    model = tapadl.attach_tap(make_vit()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    dilation_maps(model, torch.randn(2, 3, 32, 48))

    assert model.blocks[0].tap.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_without_tap_has_no_dilation():
    assert dilation_maps(make_vit(), torch.randn(1, 3, 32, 48)) == []


def test_weights_without_four_axes_are_refused():
    with pytest.raises(ValueError, match=r"\(B, K, rows, cols\), got \(4, 3, 5\)"):
        mean_dilation(torch.zeros(4, 3, 5))


def test_a_report_holds_the_means_of_the_weights_that_the_forward_uses(attached_vit):
    torch.nn.init.normal_(attached_vit.blocks[1].tap.dilation_predictor.proj[2].weight)
    images = torch.randn(5, 3, 32, 48, dtype=torch.float64)
    tokens, weights = attached_vit.pos_drop(attached_vit._pos_embed(attached_vit.patch_embed(images))), []
    for block in attached_vit.blocks:
        weights.append(block.tap.branch_weights(tokens, (4, 6), 1).detach().numpy())
        tokens = block(tokens)

    report = measure_dilation(attached_vit, images.split(2))

    assert report.num_images == 5
    assert [layer.name for layer in report.layers] == ["blocks.0", "blocks.1"]
    for layer, weight in zip(report.layers, weights, strict=True):
        by_patch = sum(d * weight[:, d] for d in range(4))
        np.testing.assert_allclose(layer.use, weight.mean(axis=(0, 2, 3)), rtol=1e-9)
        np.testing.assert_allclose(layer.by_patch, by_patch.mean(axis=0), rtol=1e-9)
        assert layer.mean_dilation == pytest.approx(by_patch.mean())
        assert layer.entropy == pytest.approx(-(weight * np.log(weight)).sum(axis=1).mean())
        assert layer.gate is None
    assert report.layers[1].entropy < report.layers[0].entropy < math.log(4)


def test_a_report_is_plain_data_and_a_picture(attached_vit):
    report = measure_dilation(attached_vit, torch.randn(1, 3, 32, 48, dtype=torch.float64))

    assert json.loads(json.dumps(report.to_json()))["layers"][0]["use"] == list(report.layers[0].use)
    use, mean, entropy, *maps = report.plot().axes
    assert [bar.get_height() for bar in use.containers[0]] == [layer.use[0] for layer in report.layers]
    assert list(mean.lines[0].get_ydata()) == [layer.mean_dilation for layer in report.layers]
    assert list(entropy.lines[0].get_ydata()) == [layer.entropy for layer in report.layers]
    assert maps[0].images[0].get_array().shape == (4, 6)


def test_a_gate_that_is_closed_shows():
    model = tapadl.attach_tap(make_vit(), init="identity")

    report = measure_dilation(model, torch.randn(1, 3, 32, 48))

    assert [layer.gate for layer in report.layers] == [0.0, 0.0]


def test_a_model_without_tap_is_refused_by_name():
    with pytest.raises(ValueError, match="a model with TAP, got VisionTransformer without"):
        measure_dilation(make_vit(), torch.randn(1, 3, 32, 48))
