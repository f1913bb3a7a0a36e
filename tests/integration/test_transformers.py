"""The vision models of transformers, whose own returned attention weights (eager) are the oracle."""

import copy
import inspect

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import nn

import tapadl
from tapadl.ops.diversification import attention_diversification_from_map

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
VIT = SMALL | {"image_size": 32, "patch_size": 8, "num_labels": 3}
TWO_TOWERS = {
    "text_config": SMALL | {"vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2},
    "vision_config": SMALL | {"image_size": 32, "patch_size": 8},
}
SWIN = {
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 8,
    "depths": [2, 2],
    "num_heads": [2, 2],
    "window_size": 4,
    "num_labels": 3,
}
SEGFORMER = {
    "depths": [1, 1, 2, 1],
    "hidden_sizes": [8, 8, 16, 16],
    "num_attention_heads": [1, 2, 2, 2],
    "num_labels": 3,
}
# the second pair: DINOv2 before transformers 5.13
UNEVEN = ("q_proj.weight", "k_proj.weight", "query.weight", "key.weight", "relative_position_bias_table")
INTERPOLATE = {"interpolate_pos_encoding": True}

# family: model class, configuration, arguments of its forward, image size, prefix tokens, grid of each block
FAMILIES = {
    "vit": ("ViTForImageClassification", VIT, INTERPOLATE, (32, 48), 1, [(4, 6)] * 2),
    "deit": ("DeiTForImageClassification", VIT, INTERPOLATE, (32, 48), 2, [(4, 6)] * 2),
    "dinov2": ("Dinov2ForImageClassification", VIT, {}, (32, 48), 1, [(4, 6)] * 2),
    "dinov2-registers": (
        "Dinov2WithRegistersForImageClassification",
        VIT | {"num_register_tokens": 3},
        {},
        (32, 48),
        4,
        [(4, 6)] * 2,
    ),
    "dinov3": ("DINOv3ViTModel", VIT | {"num_register_tokens": 3}, {}, (32, 48), 4, [(4, 6)] * 2),
    "beit": (
        "BeitForImageClassification",
        VIT | {"use_relative_position_bias": True},
        {},
        (32, 48),
        1,
        [(4, 6)] * 2,
    ),
    "beit-shared-bias": (
        "BeitForImageClassification",
        VIT | {"use_shared_relative_position_bias": True},
        {},
        (32, 48),
        1,
        [(4, 6)] * 2,
    ),
    # windows of 4 x 4 do not divide 9 x 11: padded, and shifted in every other block
    "swin": ("SwinForImageClassification", SWIN, {}, (36, 43), 0, [(18, 22)] * 2 + [(9, 11)] * 2),
    "segformer": (
        "SegformerForImageClassification",
        SEGFORMER,
        {},
        (64, 104),
        0,
        [(16, 26), (8, 13), (4, 7), (4, 7), (2, 4)],
    ),
    "siglip": ("SiglipVisionModel", VIT, INTERPOLATE, (32, 48), 0, [(4, 6)] * 2),
    "clip": ("CLIPVisionModel", VIT, INTERPOLATE, (32, 48), 1, [(4, 6)] * 2),
}


def build(class_name, options):
    torch.manual_seed(0)
    model_class = getattr(transformers, class_name)
    return uneven(model_class(model_class.config_class(**options)))


def uneven(model):
    """Attention uneven enough to pass the threshold of the loss."""
    for name, parameter in model.named_parameters():
        if name.endswith(UNEVEN):
            nn.init.normal_(parameter)
    return model.double()


def make(family, **options):
    class_name, settings, _, _, _, _ = FAMILIES[family]
    return build(class_name, settings | options)


def inputs_of(family):
    _, _, arguments, size, _, _ = FAMILIES[family]
    images = torch.randn(2, 3, *size, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    return {"pixel_values": images, **arguments}


def recorded_losses(model, inputs):
    """The loss of each map that the attention modules return when asked; a mask has left zeros in it."""
    model.set_attn_implementation("eager")
    maps = []

    def record(_module, _inputs, output):
        # before 5.13 some are modules inside modules: one returns the output alone, or both the same map
        if isinstance(output, tuple) and not (maps and maps[-1] is output[1]):
            maps.append(output[1])

    for module in model.modules():
        if type(module).__name__.endswith("Attention") and not isinstance(module, nn.MultiheadAttention):
            module.register_forward_hook(record)
    model(**inputs)
    masked = "attention_mask" in inputs
    return [attention_diversification_from_map(m, mask=m > 0 if masked else None) for m in maps]


def score(output):
    """A loss of the task: of the logits, or of the tokens."""
    return output[0].square().mean()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradient_equal_those_of_the_maps_the_model_returns(family, attention):
    model = tapadl.attach_tap(make(family, attn_implementation=attention)).eval()
    twin = copy.deepcopy(model)
    with tapadl.AttentionDiversificationLoss(model) as diversification:
        model(**inputs_of(family))
        layers = diversification.per_layer()
    want = recorded_losses(twin, inputs_of(family))
    assert len(layers) == len(FAMILIES[family][-1])
    assert max(layers) > 0.1
    # transformers computes the softmax of most models in float32, whatever the model is in
    torch.testing.assert_close(layers, want, rtol=1e-6, atol=1e-6, check_dtype=False)
    torch.stack(layers).mean().backward()
    torch.stack(want).mean().backward()
    for (name, mine), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None), name
        if mine.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_tap_pools_the_patches_on_their_grid_in_front_of_every_norm(family):
    _, _, _, _, num_prefix_tokens, grids = FAMILIES[family]
    model = tapadl.attach_tap(make(family)).eval()
    blocks = [module for module in model.modules() if hasattr(module, "tap")]
    tokens, normed = [], []
    for block in blocks:
        norm = getattr(block, "layernorm_before", None) or getattr(block, "norm1", None) or block.layer_norm1
        block.register_forward_pre_hook(lambda _block, inputs: tokens.append(inputs[0]))
        norm.register_forward_hook(lambda norm, _inputs, output: normed.append((norm, output)))
    with torch.no_grad():
        model(**inputs_of(family))
    assert len(blocks) == len(tokens) == len(normed) == len(grids)
    for block, before, grid, (norm, got) in zip(blocks, tokens, grids, normed, strict=True):
        pooled = block.tap(before, grid, num_prefix_tokens)
        assert not torch.equal(pooled, before)
        want = F.layer_norm(pooled, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_training_reaches_tap_and_detaching_restores_every_bit(family):
    model = make(family).eval()
    before, keys = model(**inputs_of(family))[0], list(model.state_dict())
    tapadl.attach_tap(model).train()
    with tapadl.AttentionDiversificationLoss(model) as diversification:
        (score(model(**inputs_of(family))) + diversification()).backward()
        copied = copy.deepcopy(model)
        copied(**inputs_of(family))
        with pytest.raises(RuntimeError, match="expected a forward"):
            diversification()  # the copy does not listen
    added = {name: p.grad for name, p in model.named_parameters() if ".tap." in name}
    assert len(added) == 4 * len(FAMILIES[family][-1])
    assert all(grad is not None and grad.isfinite().all() for grad in added.values())
    assert all(grad.abs().max() > 0 for name, grad in added.items() if name.endswith("proj.0.weight"))
    tapadl.detach_tap(model).eval()
    assert list(model.state_dict()) == keys
    assert torch.equal(model(**inputs_of(family))[0], before)


def enable_checkpointing(model, **options):
    # the new name; where it exists, the old one warns
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False} | options)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_checkpointing_changes_nothing(family, attention):
    model = tapadl.attach_tap(make(family, attn_implementation=attention)).train()
    twin = copy.deepcopy(model)
    enable_checkpointing(twin)
    values = []
    for each in (model, twin):
        torch.manual_seed(2)  # the same dropout
        with tapadl.AttentionDiversificationLoss(each) as diversification:
            output = each(**inputs_of(family))
            layers = diversification.per_layer()
            (score(output) + torch.stack(layers).mean()).backward()
            with pytest.raises(RuntimeError, match="expected a forward"):
                diversification()  # the recomputation left nothing behind
        values.append(layers)
    assert torch.equal(torch.stack(values[0]), torch.stack(values[1]))
    for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
    for mine, theirs in zip(model.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs)  # the batch norm of TAP counted the batch once


def test_reentrant_checkpointing_is_refused():
    model = make("vit").train()
    enable_checkpointing(model, use_reentrant=True)
    with tapadl.AttentionDiversificationLoss(model) as diversification:
        model(**inputs_of("vit"))
        with pytest.raises(RuntimeError, match="use_reentrant=False"):
            diversification()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention_dropout_does_not_reach_the_loss(attention):
    model = make("vit", attn_implementation=attention, attention_probs_dropout_prob=0.5)
    with tapadl.AttentionDiversificationLoss(model, blocks=[0]) as diversification:
        outputs = []
        for training in (True, False):
            outputs.append(model.train(training)(**inputs_of("vit"))[0])
            outputs.append(diversification())
    assert not torch.allclose(outputs[0], outputs[2])
    assert torch.equal(outputs[1], outputs[3])


def test_a_padding_mask_reaches_the_loss():
    model = make("dinov2", attn_implementation="sdpa").eval()
    if "attention_mask" not in inspect.signature(model.forward).parameters:
        pytest.skip("transformers before 5.13 masks no image")
    mask = torch.ones(2, 25, dtype=torch.long)
    mask[1, 15:] = 0
    inputs = inputs_of("dinov2")
    with tapadl.AttentionDiversificationLoss(model) as diversification:
        model(**inputs)
        unmasked = diversification.per_layer()
        model(**inputs, attention_mask=mask)
        layers = diversification.per_layer()
    want = recorded_losses(copy.deepcopy(model), inputs | {"attention_mask": mask})
    torch.testing.assert_close(layers, want)
    assert not torch.allclose(torch.stack(layers), torch.stack(unmasked))


@pytest.mark.parametrize("kind", ["CLIP", "Siglip"])
def test_the_vision_tower_of_a_model_with_two_is_the_site(kind):
    model = tapadl.attach_tap(build(f"{kind}Model", TWO_TOWERS)).eval()
    taps = [name for name, module in model.named_modules() if name.endswith(".tap")]
    assert taps == [f"vision_model.encoder.layers.{index}.tap" for index in range(2)]
    images = inputs_of("clip")
    words = {"input_ids": torch.tensor([[0, 5, 1]])}
    with tapadl.AttentionDiversificationLoss(model) as diversification:
        model(**images, **words)
        layers = diversification.per_layer()
        model.get_image_features(**images)  # not a call of the model
        torch.testing.assert_close(diversification.per_layer(), layers)
    torch.testing.assert_close(
        layers, recorded_losses(copy.deepcopy(model.vision_model), images), check_dtype=False
    )


@pytest.mark.parametrize(("family", "part"), [("vit", "vit"), ("swin", "swin"), ("segformer", "segformer")])
def test_calling_the_encoder_alone_is_one_forward(family, part):
    model = make(family).eval()
    with tapadl.AttentionDiversificationLoss(model) as diversification:
        model(**inputs_of(family))
        layers = diversification.per_layer()
        for _ in range(2):
            getattr(model, part)(**inputs_of(family))
        assert torch.equal(torch.stack(diversification.per_layer()), torch.stack(layers))


@pytest.mark.parametrize(
    ("class_name", "options"),
    [
        ("Dinov2Backbone", VIT),
        ("Dinov2WithRegistersBackbone", VIT),
        ("DINOv3ViTBackbone", VIT),
        ("BeitBackbone", VIT),
        ("SwinBackbone", SWIN),
        ("SegformerForSemanticSegmentation", SEGFORMER),
    ],
)
def test_backbones_and_dense_models_take_both(class_name, options):
    model = tapadl.attach_tap(build(class_name, options)).train()
    with tapadl.AttentionDiversificationLoss(model) as diversification:
        output = model(torch.randn(2, 3, 64, 96, dtype=torch.double))[0]
        maps = output if isinstance(output, torch.Tensor) else output[-1]
        (maps.square().mean() + diversification()).backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if ".tap." in name)


def hidden_attention(_module, query, key, value, _mask, scaling=None, **_options):
    """An attention by other means than torch's fused kernel or softmax, as the flash kernels are."""
    scores = torch.exp(query @ key.transpose(-1, -2) * scaling)
    return (scores / scores.sum(-1, keepdim=True) @ value).transpose(1, 2), None


def test_a_kernel_that_hides_the_attention_is_an_error_that_names_the_way_out():
    transformers.AttentionInterface.register("hidden", hidden_attention)
    model = make("vit", attn_implementation="hidden")
    with tapadl.AttentionDiversificationLoss(model) as diversification:
        model(**inputs_of("vit"))
        with pytest.raises(RuntimeError, match=r'ViTAttention at vit.*set_attn_implementation\("sdpa"\)'):
            diversification()
        model.set_attn_implementation("sdpa")
        model(**inputs_of("vit"))
        assert diversification() > 0


@pytest.mark.parametrize("class_name", ["ViTMAEModel", "BertModel"])
def test_an_unknown_model_is_refused_with_the_list_of_the_known(class_name):
    options = SMALL | ({} if class_name == "BertModel" else {"image_size": 32, "patch_size": 8})
    for attach in (tapadl.attach_tap, tapadl.AttentionDiversificationLoss):
        with pytest.raises(
            ValueError, match=rf"{class_name}: supported are .*transformers' ViT, .*SegFormer"
        ):
            attach(build(class_name, options))


def test_blocks_are_found_behind_a_class_put_in_front_of_theirs():
    model = make("vit")
    for block in model.vit.layers:  # as fully_shard does
        block.__class__ = type(f"FSDP{type(block).__name__}", (type(block),), {})
    tapadl.attach_tap(model)
    assert all(hasattr(block, "tap") for block in model.vit.layers)
