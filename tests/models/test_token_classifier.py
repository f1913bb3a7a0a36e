"""What timm expects of a model, of every kind of ours."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.layers.drop import DropPath
from timm.models import group_parameters
from timm.models.xcit import ClassAttentionBlock
from timm.optim import create_optimizer_v2
from torch.overrides import TorchFunctionMode

import tapadl
import tapadl.models
from tapadl.models.rvt_blocks import ScaledByPositionAttention

SMALL = {
    "tap_fan_tiny_12_p16_224": {"embed_dims": (32,), "depths": (3,), "num_heads": (2,)},
    "tap_fan_tiny_8_p4_hybrid": {
        "embed_dims": (32,),
        "depths": (2,),
        "num_heads": (2,),
        "stem_depths": (1, 1),
    },
    "tap_fan_Xlarge_16_p4_hybrid": {
        "embed_dims": (32, 48),
        "depths": (2, 1),
        "num_heads": (2, 3),
        "stem_depths": (1, 1),
    },
    "tap_fan_swin_tiny_patch4_window7_224": {"embed_dim": 24, "depths": (2, 1), "num_heads": (2, 3)},
    "tap_rvt_tiny_plus": {"embed_dims": (32, 64), "depths": (2, 1), "num_heads": (2, 4), "masked_blocks": 1},
    "tap_rvt_base": {"embed_dims": (32,), "depths": (3,), "num_heads": (2,)},
}


def small(name, **options):
    return timm.create_model(name, **{"num_classes": 5} | SMALL[name] | options)


@pytest.fixture(params=SMALL)
def name(request):
    return request.param


def images(height=64, width=96, batch=2):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(height + width))


def trained_batch_norms(model):
    """Statistics that are not those of the start, so that evaluation differs from an empty run."""
    model.train()
    with torch.no_grad():
        model(images(batch=4))
    return model.eval()


@torch.no_grad()
def test_a_model_takes_one_size_after_another(name):
    model = trained_batch_norms(small(name))
    first = model(images(64, 96))
    other = model(images(96, 64))
    assert torch.equal(model(images(64, 96)), first)
    assert torch.equal(copy.deepcopy(model)(images(96, 64)), other)


@pytest.mark.parametrize("size", [(16, 16), (70, 99)])
def test_images_have_any_size_from_a_patch_up_also_with_tap_and_diversification(name, size):
    model = small(name)
    diversification = tapadl.AttentionDiversificationLoss(model)
    logits = model(images(*size))
    assert logits.shape == (2, 5)
    (logits.square().sum() + diversification()).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key


@torch.no_grad()
def test_memory_layout_of_the_images_changes_nothing(name):
    model = trained_batch_norms(small(name))
    expected = model(images())
    torch.testing.assert_close(model(images().contiguous(memory_format=torch.channels_last)), expected)
    model = model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(images().contiguous(memory_format=torch.channels_last)), expected)


@torch.no_grad()
def test_forward_is_features_then_head(name):
    model = trained_batch_norms(small(name))
    logits = model(images())
    features = model.forward_features(images())
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (2, model.head_hidden_size)
    assert torch.equal(model.forward_head(features), logits)
    assert torch.equal(model.get_classifier()(pooled), logits)


@torch.no_grad()
def test_intermediates_are_what_the_modules_named_in_feature_info_give(name):
    model = trained_batch_norms(small(name))
    seen = {}

    def note(module_name):
        def hook(_module, _inputs, output):
            seen[module_name] = output[0] if isinstance(output, tuple) else output

        return hook

    for info in model.feature_info:
        model.get_submodule(info["module"]).register_forward_hook(note(info["module"]))
    final, maps = model.forward_intermediates(images())
    assert torch.equal(final, model.forward_features(images()))
    assert len(maps) == len(model.feature_info)
    for info, feature in zip(model.feature_info, maps, strict=True):
        grid = (64 // info["reduction"], 96 // info["reduction"])
        assert feature.shape == (2, info["num_chs"], *grid)
        output = seen[info["module"]]
        if "swin" in name:
            output = output.permute(0, 3, 1, 2)
        if output.ndim == 3:  # class attention has the class token in front
            patches = output[:, output.shape[1] - grid[0] * grid[1] :]
            output = patches.transpose(1, 2).unflatten(2, grid)
        assert torch.equal(feature, output)


@torch.no_grad()
def test_features_only_keeps_what_the_features_need_and_no_more(name):
    whole = trained_batch_norms(small(name))
    for index in range(len(whole.feature_info)):
        features = small(name, features_only=True, out_indices=(0, index))
        missing, _ = features.model.load_state_dict(whole.state_dict(), strict=False)
        assert missing == []
        maps = features.eval()(images())
        expected = whole.forward_intermediates(images(), indices=[0, index], intermediates_only=True)
        assert all(torch.equal(own, other) for own, other in zip(maps, expected, strict=True))
    pruned = small(name, features_only=True, out_indices=(0,)).model
    behind = [info["module"] for info in whole.feature_info[max(1, len(whole.feature_info) - 2) :]]
    assert not [key for key in pruned.state_dict() if key.startswith((*behind, "head", "norm", "cls_token"))]


@torch.no_grad()
def test_stopping_early_leaves_the_features_as_they_are(name):
    model = trained_batch_norms(small(name))
    early = model.forward_intermediates(images(), indices=[0], stop_early=True, intermediates_only=True)
    late = model.forward_intermediates(images(), indices=[0], intermediates_only=True)
    assert torch.equal(early[0], late[0])


@pytest.mark.parametrize("name", [name for name in SMALL if "swin" not in name])
@torch.no_grad()
def test_features_come_as_tokens_and_normed_where_the_width_allows(name):
    model = trained_batch_norms(small(name))
    (plain,) = model.forward_intermediates(images(), indices=1, intermediates_only=True)
    (tokens,) = model.forward_intermediates(images(), indices=1, output_fmt="NLC", intermediates_only=True)
    assert torch.equal(tokens, plain.flatten(2).transpose(1, 2))
    (normed,) = model.forward_intermediates(images(), indices=1, norm=True, intermediates_only=True)
    torch.testing.assert_close(normed, model.norm(plain.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
    with pytest.raises(ValueError, match="expected output_fmt to be 'NCHW' or 'NLC', got 'NHWC'"):
        model.forward_intermediates(images(), output_fmt="NHWC")


def test_the_head_can_be_replaced_and_taken_off(name):
    model = small(name).double().eval()
    width = model.head_hidden_size
    model.reset_classifier(7)
    assert model.num_classes == 7
    assert model(images().double()).shape == (2, 7)
    model.reset_classifier(0)
    assert model(images().double()).shape == (2, width)
    assert small(name, num_classes=0)(images()).shape == (2, width)


@pytest.mark.parametrize("name", [name for name in SMALL if "swin" not in name])
def test_pooling_can_be_chosen(name):
    model = trained_batch_norms(small(name))
    model.reset_classifier(0, global_pool="")
    tokens = model(images())
    assert tokens.ndim == 3
    if "fan" in name:
        model.reset_classifier(0, global_pool="token")
        assert torch.equal(model(images()), tokens[:, 0])
        model.reset_classifier(0, global_pool="avg")
        torch.testing.assert_close(model(images()), tokens[:, 1:].mean(dim=1))
    with pytest.raises(ValueError, match=r"expected global_pool to be one of .*, got 'max'"):
        model.reset_classifier(3, global_pool="max")


def test_checkpointing_changes_neither_gradients_nor_batch_norms(name):
    plain = small(name).double()
    checkpointed = copy.deepcopy(plain)
    checkpointed.set_grad_checkpointing()
    for model in (plain, checkpointed):
        diversification = tapadl.AttentionDiversificationLoss(model)
        loss = model(images().double()).square().sum() + diversification()
        loss.backward()
    for (key, own), other in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(other.grad, own.grad, msg=key)
    for (key, own), other in zip(plain.named_buffers(), checkpointed.buffers(), strict=True):
        torch.testing.assert_close(other, own, msg=key)


def test_checkpointing_computes_blocks_again(name):
    model = small(name)
    calls = []
    model.attention_sites()[0].block.register_forward_pre_hook(lambda *_: calls.append(1))
    model(images()).sum().backward()
    assert len(calls) == 1
    model.set_grad_checkpointing()
    model(images()).sum().backward()
    assert len(calls) == 3


def test_diversification_listens_to_every_block_and_reaches_tap(name):
    model = small(name)
    diversification = tapadl.AttentionDiversificationLoss(model, tau=1.0)
    model(images())
    per_layer = diversification.per_layer()
    assert len(per_layer) == sum(SMALL[name]["depths"])
    assert all(layer > 0 for layer in per_layer)
    torch.stack(per_layer).sum().backward()
    tap = model.attention_sites()[-1].block.tap
    assert tap.dilation_predictor.proj[0].weight.grad.abs().sum() > 0


class FusedCalls(TorchFunctionMode):
    """Counts attentions computed by one fused call."""

    count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.count += function is F.scaled_dot_product_attention
        return function(*args, **(kwargs or {}))


def test_attention_is_fused_wherever_no_mask_multiplies_its_scores(name):
    model = small(name)
    masked = sum(isinstance(module, ScaledByPositionAttention) for module in model.modules())
    of_class_token = sum(isinstance(module, ClassAttentionBlock) for module in model.modules())
    with FusedCalls() as calls:
        model(images())
    assert calls.count == len(model.attention_sites()) - masked + of_class_token
    assert masked == ("plus" in name)


@torch.no_grad()
def test_tap_can_be_taken_off_again(name):
    with_tap = trained_batch_norms(small(name))
    without = tapadl.detach_tap(copy.deepcopy(with_tap))
    assert not [key for key in without.state_dict() if ".tap." in key]
    assert not torch.equal(without(images()), with_tap(images()))


def test_layers_learn_at_rates_that_fall_towards_the_images(name):
    model = small(name)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1.0, weight_decay=0.05, layer_decay=0.5)
    rate = {
        id(parameter): group["lr"] * group.get("lr_scale", 1.0)
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    by_name = {key: rate[id(parameter)] for key, parameter in model.named_parameters()}
    first = by_name[model.pretrained_cfg["first_conv"] + ".weight"]
    sites = [site.block.tap.dilation_predictor.proj[0].weight for site in model.attention_sites()]
    in_blocks = [rate[id(weight)] for weight in sites]
    head = by_name[model.pretrained_cfg["classifier"] + ".weight"]
    assert first < in_blocks[0] < in_blocks[-1] < head
    assert in_blocks == sorted(in_blocks)


def test_temperatures_positions_and_class_token_are_not_decayed(name):
    model = small(name)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1.0, weight_decay=0.05)
    decay = {
        id(parameter): group["weight_decay"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    special = ("temperature", "cls_token", "pos_embed", "relative_position_bias_table")
    for key, parameter in model.named_parameters():
        undecayed = parameter.ndim == 1 or any(part in key for part in special)
        assert decay[id(parameter)] == (0.0 if undecayed else 0.05), key


@torch.no_grad()
def test_a_saved_model_is_loaded_by_timm(name, tmp_path):
    model = trained_batch_norms(small(name))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    loaded = small(name, checkpoint_path=str(tmp_path / "model.safetensors")).eval()
    assert torch.equal(loaded(images()), model(images()))


def test_dropout_in_front_of_the_head_and_stochastic_depth_act_in_training_only(name):
    model = small(name, drop_rate=0.5, drop_path_rate=0.5)
    model.load_state_dict(trained_batch_norms(small(name)).state_dict())
    model.eval()
    assert torch.equal(model(images()), model(images()))
    model.train()
    assert not torch.equal(model(images()), model(images()))


def test_stochastic_depth_is_asked_of_timm(name):
    model = small(name, drop_path_rate=0.5)
    rates = [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]
    assert max(rates) == 0.5
    assert not torch.equal(model(images(batch=8)), model(images(batch=8)))


@pytest.mark.parametrize("coarse", [False, True])
def test_every_parameter_belongs_to_a_group(name, coarse):
    model = small(name)
    groups = group_parameters(model, model.group_matcher(coarse=coarse))
    names = [key for group in groups.values() for key in group]
    assert sorted(names) == sorted(key for key, _ in model.named_parameters())
    assert model.pretrained_cfg["first_conv"] + ".weight" in groups[0]
    assert model.pretrained_cfg["classifier"] + ".weight" in groups[max(groups)]


def test_images_may_have_other_channels(name):
    model = small(name, in_chans=1)
    assert model(images()[:, :1]).shape == (2, 5)
