import pytest
import timm
import torch

import tapadl
from tapadl.diagnostics import dilation_maps, mean_dilation


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
