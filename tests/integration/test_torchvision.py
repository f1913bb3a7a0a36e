"""The transformers of torchvision, with maps recorded or computed by hand as the oracle."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import MaxVit, SwinTransformer, VisionTransformer
from torchvision.models.swin_transformer import (
    PatchMergingV2,
    SwinTransformerBlockV2,
)
from torchvision.models.vision_transformer import ConvStemConfig

import tapadl
from tapadl.ops.diversification import attention_diversification_from_map


def vit(**options):
    settings = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 16}
    return VisionTransformer(**settings, mlp_dim=32, num_classes=3, **options)


def vit_with_convolutional_stem():
    return vit(conv_stem_configs=[ConvStemConfig(8, 3, 4), ConvStemConfig(8, 3, 2)])


SWIN = {"patch_size": [2, 2], "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2], "num_classes": 3}


def swin():
    return SwinTransformer(window_size=[4, 4], **SWIN)


def swin_v2():
    return SwinTransformer(
        window_size=[4, 4], block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2, **SWIN
    )


def maxvit():
    return MaxVit((32, 32), 8, 4, [8, 16], [1, 1], 4, 0.2, num_classes=3)


# model: builder, image size (VisionTransformer and MaxVit take theirs only), prefix tokens, grid per block
TAKE_TAP = {
    "vit": (vit, (32, 32), 1, [(4, 4)] * 2),
    "vit-convolutional-stem": (vit_with_convolutional_stem, (32, 32), 1, [(4, 4)] * 2),
    # windows of 4 x 4 do not divide 9 x 11: padded, and shifted in every other block
    "swin": (swin, (36, 43), 0, [(18, 21)] * 2 + [(9, 11)] * 2),
    "swin-v2": (swin_v2, (36, 43), 0, [(18, 21)] * 2 + [(9, 11)] * 2),
}
ALL = TAKE_TAP | {"maxvit": (maxvit, (32, 32), 0, [(8, 8)] * 2 + [(4, 4)] * 2)}


# parameters that make attention uneven enough to pass the threshold of the loss
UNEVEN = {
    "in_proj_weight": 0.7,
    "qkv.weight": 0.7,
    "to_qkv.weight": 1.0,
    "relative_position_bias_table": 0.7,
    "logit_scale": 3.0,
}


def make(name):
    torch.manual_seed(0)
    model = ALL[name][0]().double()
    for parameter_name, parameter in model.named_parameters():
        for ending, scale in UNEVEN.items():
            if parameter_name.endswith(ending):
                nn.init.normal_(parameter, std=scale)
    return model


def images_for(name):
    size = ALL[name][1]
    return torch.randn(2, 3, *size, dtype=torch.double, generator=torch.Generator().manual_seed(1))


def recorded_losses(model, images, monkeypatch):
    """The loss of each map: returned by nn.MultiheadAttention when asked, or what comes out of F.softmax."""
    maps = []

    def ask(_module, inputs, options):
        return inputs, options | {"need_weights": True, "average_attn_weights": False}

    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            module.register_forward_pre_hook(ask, with_kwargs=True)
            module.register_forward_hook(lambda _module, _inputs, output: maps.append(output[1]))
    softmax = F.softmax

    def recording_softmax(scores, dim):
        maps.append(softmax(scores, dim))
        return maps[-1]

    if not any(isinstance(module, nn.MultiheadAttention) for module in model.modules()):
        monkeypatch.setattr(F, "softmax", recording_softmax)
    model(images)
    monkeypatch.undo()
    # windows of MaxVit: (B, windows, H, N, N)
    return [attention_diversification_from_map(attention.flatten(0, -4)) for attention in maps]


@pytest.mark.parametrize("name", ALL)
def test_loss_and_gradient_equal_those_of_recorded_maps(name, monkeypatch):
    model = make(name).eval()
    if name in TAKE_TAP:
        tapadl.attach_tap(model)
    twin = copy.deepcopy(model)
    with tapadl.AttentionDiversificationLoss(model) as diversification:
        model(images_for(name))
        layers = diversification.per_layer()
    want = recorded_losses(twin, images_for(name), monkeypatch)
    assert len(layers) == len(ALL[name][-1])
    assert max(layers) > 0.1
    torch.testing.assert_close(layers, want, rtol=1e-10, atol=1e-12)
    torch.stack(layers).mean().backward()
    torch.stack(want).mean().backward()
    for (parameter_name, mine), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None), parameter_name
        if mine.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("name", TAKE_TAP)
def test_tap_pools_the_patches_in_front_of_the_attention_only(name):
    _, _, num_prefix_tokens, grids = TAKE_TAP[name]
    model = tapadl.attach_tap(make(name)).eval()
    blocks = [module for module in model.modules() if hasattr(module, "tap")]
    seen = {}
    for block in blocks:
        block.register_forward_hook(lambda block, inputs, output: seen.update({block: (inputs[0], output)}))
    with torch.no_grad():
        model(images_for(name))
    assert len(blocks) == len(grids)
    for block, grid in zip(blocks, grids, strict=True):
        tokens, got = seen[block]
        flat = tokens.flatten(1, 2) if tokens.ndim == 4 else tokens
        pooled = block.tap(flat, grid, num_prefix_tokens).view_as(tokens)
        plain = tapadl.detach_tap(copy.deepcopy(block))
        torch.testing.assert_close(got, block_by_hand(plain, tokens, pooled), rtol=1e-10, atol=1e-12)


def block_by_hand(block, tokens, pooled):
    """tokens + attention(norm(pooled)), and what follows, as the papers have it; in eval mode."""
    if isinstance(block, SwinTransformerBlockV2):
        middle = tokens + block.norm1(block.attn(pooled))
        return middle + block.norm2(block.mlp(middle))
    if hasattr(block, "self_attention"):
        normed = block.ln_1(pooled)
        middle = tokens + block.self_attention(normed, normed, normed, need_weights=False)[0]
        return middle + block.mlp(block.ln_2(middle))
    middle = tokens + block.attn(block.norm1(pooled))
    return middle + block.mlp(block.norm2(middle))


@pytest.mark.parametrize("name", TAKE_TAP)
def test_training_reaches_tap_and_detaching_restores_every_bit(name):
    model = make(name).eval()
    before, keys = model(images_for(name)), list(model.state_dict())
    tapadl.attach_tap(model).train()
    with tapadl.AttentionDiversificationLoss(model) as diversification:
        (model(images_for(name)).square().mean() + diversification()).backward()
    added = {key: parameter.grad for key, parameter in model.named_parameters() if ".tap." in key}
    assert len(added) == 4 * len(TAKE_TAP[name][-1])
    assert all(grad is not None and grad.isfinite().all() for grad in added.values())
    assert all(grad.abs().max() > 0 for key, grad in added.items() if key.endswith("proj.0.weight"))
    copied = copy.deepcopy(model).eval()
    assert torch.equal(copied(images_for(name)), model.eval()(images_for(name)))
    tapadl.detach_tap(model)
    assert list(model.state_dict()) == keys
    assert torch.equal(model(images_for(name)), before)


def test_maxvit_refuses_tap_with_the_reason():
    with pytest.raises(ValueError, match="cuts the map into windows before the residual"):
        tapadl.attach_tap(make("maxvit"))
