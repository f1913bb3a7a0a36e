import math

import pytest
import timm
import torch
from timm.layers.drop import DropPath
from torch import nn

import tapadl.models
from tapadl.models import FAN
from tapadl.models.fan_blocks import ChannelProcessing, ConvolvedMLP, FANBlock, TokenAttention
from tapadl.models.fan_embedding import ConvPatchEmbed, FourierPosition, UnbiasedLayerNorm2d

GRID = (3, 5)


def tokens(dim, num_tokens=15):
    return torch.randn(2, num_tokens, dim, dtype=torch.float64)


def randomized(module):
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module.double()


def test_token_attention_is_softmax_of_scaled_products_head_by_head():
    attention = randomized(TokenAttention(dim=12, num_heads=3))
    x = tokens(12)
    query, keys_and_values = attention.q(x), attention.kv(x)
    heads = []
    for head in range(3):
        channels = slice(4 * head, 4 * head + 4)
        key, value = keys_and_values[..., :12][..., channels], keys_and_values[..., 12:][..., channels]
        scores = query[..., channels] @ key.transpose(1, 2) / math.sqrt(4)
        heads.append(scores.softmax(dim=-1) @ value)
    torch.testing.assert_close(attention(x), attention.proj(torch.cat(heads, dim=-1)))


@pytest.mark.parametrize("residual", [True, False])
def test_channel_processing_weights_each_channel_by_its_agreement_with_the_head(residual):
    processing = randomized(ChannelProcessing(dim=6, num_heads=2, residual=residual))
    x = tokens(6)
    query = processing.q(x)
    values = processing.norm_v(processing.mlp_v(x, GRID))
    expected = torch.empty_like(values)
    for sample in range(2):
        for head in range(2):
            channels = range(3 * head, 3 * head + 3)
            key = torch.stack([x[sample, :, channel].softmax(dim=0) for channel in channels]).mean(dim=0)
            for channel in channels:
                agreement = (query[sample, :, channel].softmax(dim=0) * key).sum()
                weight = torch.sigmoid(agreement) * processing.temperature[head, 0, 0]
                expected[sample, :, channel] = weight * values[sample, :, channel]
    torch.testing.assert_close(processing(x, GRID), expected)


@pytest.mark.parametrize("residual", [True, False])
def test_convolved_mlp_convolves_on_the_grid_and_scales_by_gamma(residual):
    mlp = randomized(ConvolvedMLP(dim=4, hidden_dim=8, residual=residual)).eval()
    x = tokens(4)
    hidden = mlp.fc1(x)
    on_grid = hidden.transpose(1, 2).reshape(2, 8, *GRID)
    convs = mlp.dwconv
    out = convs.conv2(convs.bn(nn.functional.gelu(convs.conv1(on_grid)))).reshape(2, 8, 15).transpose(1, 2)
    expected = mlp.fc2(mlp.gamma * out + (hidden if residual else 0))
    torch.testing.assert_close(mlp(x, GRID), expected)


def test_unbiased_norm_divides_by_the_sum_of_squares_over_channels_less_one():
    norm = randomized(UnbiasedLayerNorm2d(6, eps=0.1))
    x = torch.randn(2, 6, 3, 4, dtype=torch.float64)
    centred = x - x.mean(dim=1, keepdim=True)
    variance = centred.square().sum(dim=1, keepdim=True) / 5
    expected = centred / (variance + 0.1).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]
    torch.testing.assert_close(norm(x), expected)


def test_hybrid_has_the_ordinary_norm_behind_its_stem_only():
    stem = timm.create_model("fan_tiny_8_p4_hybrid").patch_embed.backbone
    assert not isinstance(stem.stem[1], UnbiasedLayerNorm2d)
    norms = [module for module in stem.stages.modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) == 3 + 1 + 3
    assert all(isinstance(norm, UnbiasedLayerNorm2d) and norm.eps == 1e-6 for norm in norms)


@pytest.mark.parametrize("paired", [True, False])
def test_position_is_sine_and_cosine_of_rows_then_columns(paired):
    position = FourierPosition(dim=128, paired_frequencies=paired)
    identity = torch.eye(64).repeat(2, 1)[..., None, None]
    position.load_state_dict({"token_projection.weight": identity, "token_projection.bias": torch.zeros(128)})
    table = position((3, 5))[0, :64]
    for row, col in [(0, 0), (1, 4), (2, 2)]:
        for axis, relative in enumerate([(row + 1) / (3 + 1e-6), (col + 1) / (5 + 1e-6)]):
            for index in range(32):
                exponent = 2 * (index // 2 if paired else index / 2) / 32
                angle = 2 * math.pi * relative / 10000**exponent
                expected = math.cos(angle) if index % 2 else math.sin(angle)
                assert table[32 * axis + index, row, col].item() == pytest.approx(expected, abs=2e-6)


def test_position_is_computed_in_float32_whatever_the_model():
    position = FourierPosition(dim=8)
    in_float32 = position((7, 5))
    assert position.double()((7, 5)).dtype == torch.float64
    torch.testing.assert_close(position((7, 5)).float(), in_float32)


@pytest.mark.parametrize(("patch_size", "num_convs"), [(16, 4), (8, 3), (4, 2)])
def test_a_convolution_for_each_factor_of_two_of_the_patch(patch_size, num_convs):
    embed = ConvPatchEmbed(3, 32, patch_size)
    convs = [module for module in embed.modules() if isinstance(module, nn.Conv2d)]
    assert [conv.out_channels for conv in convs] == [32 >> halvings for halvings in range(num_convs)][::-1]
    (patches,) = embed(torch.randn(1, 3, 32, 48))
    assert patches.shape == (1, 32, 32 // patch_size, 48 // patch_size)


def test_patches_of_8_pixels_make_a_finer_grid_of_features():
    model = FAN(embed_dims=(32,), depths=(1,), num_heads=(2,), patch_size=8)
    assert [info["reduction"] for info in model.feature_info] == [8, 8]
    assert model.forward_features(torch.randn(1, 3, 32, 48)).shape == (1, 1 + 4 * 6, 32)


def test_every_block_drops_its_branches_equally_often():
    model = FAN(embed_dims=(32,), depths=(4,), num_heads=(2,), drop_path_rate=0.3)
    drops = [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]
    assert drops == [0.3] * 4


def test_branches_are_scaled_by_eta_at_first():
    block = FANBlock(8, 2, eta=0.25)
    assert torch.equal(block.gamma1, torch.full((8,), 0.25))
    assert torch.equal(block.gamma2, torch.full((8,), 0.25))


def test_head_of_the_large_hybrid_begins_near_zero():
    heads = {
        name: timm.create_model(name, depths=(1,)).head.weight.std().item()
        for name in ("fan_base_16_p4_hybrid", "fan_large_16_p4_hybrid")
    }
    assert heads["fan_base_16_p4_hybrid"] == pytest.approx(0.02, rel=0.1)
    assert heads["fan_large_16_p4_hybrid"] == pytest.approx(0.02e-3, rel=0.1)


def test_tap_pools_on_the_halved_grid_behind_the_change_of_width():
    model = tapadl.attach_tap(FAN(embed_dims=(32, 64), depths=(2, 1), num_heads=(2, 4)))
    grids = []
    for site in model.attention_sites():
        site.block.tap.register_forward_pre_hook(lambda _tap, inputs: grids.append(inputs[1]))
    model(torch.randn(1, 3, 96, 160))
    assert grids == [(6, 10), (6, 10), (3, 5)]


def test_class_attention_takes_neither_tap_nor_adl():
    model = timm.create_model("tap_fan_tiny_12_p16_224", depths=(2,))
    sites = model.attention_sites()
    assert [site.block for site in sites] == list(model.blocks)
    assert not hasattr(model.cls_attn_blocks[0], "tap")
