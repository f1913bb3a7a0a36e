import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers.drop import DropPath
from torch import nn

import tapadl.models
from tapadl.models import RVT
from tapadl.models.rvt_blocks import (
    ConvMLP,
    RVTAttention,
    RVTPatchEmbed,
    ScaledByPositionAttention,
    TokenMLP,
    patch_grid,
)

SMALL = {"embed_dims": (32,), "depths": (2,), "num_heads": (2,), "masked_blocks": 1, "num_classes": 5}


def with_random_masks(model):
    for module in model.modules():
        if isinstance(module, ScaledByPositionAttention):
            nn.init.normal_(module.att_mask)
            nn.init.normal_(module.qkv.weight)  # attention far from uniform, for masks to matter
    return model.eval()


@pytest.mark.parametrize("size", [(224, 224), (160, 160), (192, 256), (67, 95), (384, 97)])
def test_patch_grid_is_what_the_embedding_makes(size):
    assert RVTPatchEmbed(3, 8)(torch.zeros(1, 3, *size)).shape[2:] == patch_grid(size)


def test_scores_are_multiplied_by_the_sigmoid_of_the_mask():
    attention = ScaledByPositionAttention(dim=8, num_heads=2, grid_size=(2, 3)).double()
    nn.init.normal_(attention.att_mask)
    tokens = torch.randn(2, 6, 8, dtype=torch.float64)
    query, key, value = attention.qkv(tokens).chunk(3, dim=-1)
    heads = []
    for head in range(2):
        channels = slice(4 * head, 4 * head + 4)
        scores = query[..., channels] @ key[..., channels].transpose(1, 2) / 2
        heads.append((scores * attention.att_mask[head].sigmoid()).softmax(dim=-1) @ value[..., channels])
    torch.testing.assert_close(attention(tokens, (2, 3)), attention.proj(torch.cat(heads, dim=-1)))


def test_a_mask_that_is_open_everywhere_leaves_plain_attention():
    masked = ScaledByPositionAttention(dim=8, num_heads=2, grid_size=(2, 3))
    nn.init.constant_(masked.att_mask, 40.0)
    plain = RVTAttention(dim=8, num_heads=2)
    plain.load_state_dict(masked.state_dict(), strict=False)
    tokens = torch.randn(2, 6, 8)
    torch.testing.assert_close(masked(tokens, (2, 3)), plain(tokens, (2, 3)))


@torch.no_grad()
def test_smaller_images_use_the_first_rows_and_columns_of_the_mask():
    model = with_random_masks(RVT(**SMALL))
    smaller = RVT(img_size=(96, 160), **SMALL).eval()
    state = model.state_dict()
    mask = "transformers.0.blocks.0.attn.att_mask"
    smaller.load_state_dict(state | {mask: state[mask][:, :60, :60]})
    images = torch.randn(2, 3, 96, 160)
    torch.testing.assert_close(model(images), smaller(images))


def test_larger_images_are_refused_with_a_way_out():
    model = RVT(**SMALL)
    with pytest.raises(
        ValueError, match=r"at most 196 patches, .* got 240 \(a grid of \(15, 16\)\); build the"
    ):
        model(torch.randn(1, 3, 240, 256))


@torch.no_grad()
def test_interpolated_masks_fit_any_size_and_change_nothing_at_their_own():
    model = with_random_masks(RVT(**SMALL))
    interpolating = with_random_masks(RVT(mask_resize="interpolate", **SMALL))
    interpolating.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 224, 224)
    assert torch.equal(interpolating(images), model(images))
    assert interpolating(torch.randn(1, 3, 256, 320)).shape == (1, 5)
    smaller = torch.randn(2, 3, 160, 160)
    assert not torch.allclose(interpolating(smaller), model(smaller))


def test_masks_are_interpolated_over_the_grids_of_queries_and_of_keys():
    attention = ScaledByPositionAttention(8, 2, grid_size=(4, 3), mask_resize="interpolate").double()
    of_query, of_key = (torch.randn(2, 1, 4, 3, dtype=torch.float64) for _ in range(2))
    attention.att_mask.data = of_query.flatten(1)[:, :, None] * of_key.flatten(1)[:, None]
    larger = [F.interpolate(part, size=(6, 5), mode="bilinear").flatten(1) for part in (of_query, of_key)]
    expected = larger[0][:, :, None] * larger[1][:, None]
    torch.testing.assert_close(attention._mask((6, 5)), expected)


@torch.no_grad()
def test_masks_can_be_built_for_another_size():
    model = timm.create_model("tap_rvt_tiny_plus", img_size=(192, 256), depths=(1, 1), num_classes=5)
    assert model.transformers[0].blocks[0].attn.att_mask.shape == (6, 12 * 16, 12 * 16)
    assert model(torch.randn(1, 3, 192, 256)).shape == (1, 5)


@pytest.mark.parametrize(("name", "masked"), [("rvt_tiny", 10), ("rvt_small", 5), ("rvt_base", 5)])
def test_plus_models_scale_by_position_in_the_first_blocks(name, masked):
    with torch.device("meta"):
        plain, plus = timm.create_model(name), timm.create_model(name + "_plus")
    kinds = [isinstance(site.attention, ScaledByPositionAttention) for site in plus.attention_sites()]
    assert kinds == [True] * masked + [False] * (12 - masked)
    assert not any(isinstance(site.attention, ScaledByPositionAttention) for site in plain.attention_sites())


def test_stochastic_depth_grows_linearly():
    model = RVT(embed_dims=(32, 64), depths=(3, 2), num_heads=(1, 2), drop_path_rate=0.4)
    rates = [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_mlp_is_convolutional_or_of_tokens_alone():
    for conv_mlp, kind in ((True, ConvMLP), (False, TokenMLP)):
        model = RVT(conv_mlp=conv_mlp, **SMALL)
        assert isinstance(model.transformers[0].blocks[0].mlp, kind)
    tokens = torch.randn(2, 6, 8)
    mlp = TokenMLP(8, 16)
    expected = mlp.fc2(F.gelu(mlp.fc1(tokens)))
    torch.testing.assert_close(mlp(tokens, (2, 3)), expected)


def test_tap_pools_on_the_halved_grid_of_the_second_stage():
    model = timm.create_model("tap_rvt_tiny", depths=(1, 1))
    grids = []
    for site in model.attention_sites():
        site.block.tap.register_forward_pre_hook(lambda _tap, inputs: grids.append(inputs[1]))
    model(torch.randn(1, 3, 224, 160))
    assert grids == [(14, 10), (7, 5)]


def test_masks_and_diversification_work_together():
    model = with_random_masks(timm.create_model("tap_rvt_tiny_plus", depths=(1, 1), num_classes=5)).train()
    with tapadl.AttentionDiversificationLoss(model, tau=1.0) as diversification:
        model(torch.randn(2, 3, 224, 224))
        diversification().backward()
    assert model.transformers[0].blocks[0].attn.att_mask.grad.abs().sum() > 0
