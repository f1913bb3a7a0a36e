import pytest
import timm
import torch
from timm.layers.mlp import Mlp
from timm.models.swin_transformer import SwinTransformer
from torch import nn

import tapadl
from tapadl.models import FANSwin
from tapadl.models.fan_blocks import ChannelProcessing

SMALL = {"embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4), "num_classes": 5}
NAME = "fan_swin_tiny_patch4_window7_224"


@pytest.mark.parametrize("size", [(112, 112), (112, 168)])
@torch.no_grad()
def test_body_is_that_of_swin(size):
    ours, swin = FANSwin(img_size=112, **SMALL).eval(), SwinTransformer(img_size=112, **SMALL).eval()
    swin.set_input_size(img_size=size, window_size=7)
    swin.load_state_dict(ours.state_dict(), strict=False)
    # Without MLPs both are attention, merging and head.
    for module in ours.modules():
        if isinstance(module, ChannelProcessing):
            nn.init.zeros_(module.temperature)
    for model in (ours, swin):
        for module in model.modules():
            if isinstance(module, Mlp):
                nn.init.zeros_(module.fc2.weight)
                nn.init.zeros_(module.fc2.bias)
    images = torch.randn(2, 3, *size)
    torch.testing.assert_close(ours(images), swin(images))


@torch.no_grad()
def test_a_block_adds_channel_processing_on_the_whole_grid():
    block = FANSwin(img_size=64, **SMALL).layers[0].blocks[1].eval()
    x = torch.randn(2, 16, 16, 24)
    attended = x + block._attn(block.norm1(x))
    tokens = block.norm2(attended).reshape(2, 256, 24)
    expected = attended + block.mlp(tokens, (16, 16)).reshape(2, 16, 16, 24)
    torch.testing.assert_close(block(x), expected)


def test_all_stages_but_the_last_process_channels_with_the_heads_of_the_stage():
    model = timm.create_model(NAME)
    for stage, heads in zip(model.layers[:3], (3, 6, 12), strict=True):
        for block in stage.blocks:
            assert isinstance(block.mlp, ChannelProcessing)
            assert block.mlp.num_heads == heads
            assert not block.mlp.mlp_v.residual
    assert all(isinstance(block.mlp, Mlp) for block in model.layers[3].blocks)


def test_odd_blocks_shift_by_3_except_on_the_last_grid():
    model = timm.create_model(NAME)
    shifts = [[block.shift_size for block in stage.blocks] for stage in model.layers]
    assert [stage[:2] for stage in shifts] == [[(0, 0), (3, 3)]] * 3 + [[(0, 0), (0, 0)]]


def test_every_norm_has_the_epsilon_of_torch():
    model = timm.create_model("tap_" + NAME)
    assert {module.eps for module in model.modules() if isinstance(module, nn.LayerNorm)} == {1e-5}


def test_stochastic_depth_grows_as_in_swin():
    ours, swin = (cls(drop_path_rate=0.3, **SMALL) for cls in (FANSwin, SwinTransformer))
    rates = [
        [getattr(block.drop_path2, "drop_prob", 0.0) for stage in model.layers for block in stage.blocks]
        for model in (ours, swin)
    ]
    assert rates[0] == rates[1]
    assert rates[0][-1] == pytest.approx(0.3)


def test_tap_pools_the_whole_map_in_front_of_every_window_attention():
    model = timm.create_model("tap_" + NAME, img_size=64, depths=(2, 1))
    grids = []
    for site in model.attention_sites():
        site.block.tap.register_forward_pre_hook(lambda _tap, inputs: grids.append(inputs[1]))
    model(torch.randn(1, 3, 64, 96))
    assert grids == [(16, 24), (16, 24), (8, 12)]


def test_linears_begin_with_a_standard_deviation_of_2_percent():
    model = FANSwin(**SMALL)
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.weight.numel() > 2000:
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.15)
            assert module.bias is None or not module.bias.any()


def test_attention_is_fused_and_diversification_hears_the_same_without():
    model = FANSwin(img_size=56, **SMALL)
    attentions = [site.attention for site in model.attention_sites()]
    assert all(attention.fused_attn for attention in attentions)
    images = torch.randn(2, 3, 56, 56)

    def loss():
        with tapadl.AttentionDiversificationLoss(model, tau=1.0) as diversification:
            model(images)
            return diversification()

    fused = loss()
    for attention in attentions:
        attention.fused_attn = False
    torch.testing.assert_close(loss(), fused)
    assert fused > 0
