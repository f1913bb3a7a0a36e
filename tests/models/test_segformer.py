import copy
from functools import partial

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

import tapadl
from tapadl.attach.site import find_sites
from tapadl.models import SegFormerHead, build_segmenter
from tapadl.models.convert import from_official, to_official
from tapadl.models.sharing import convert, load_segmenter
from tapadl.tasks.segmentation import pixel_cross_entropy

VIT = partial(build_segmenter, "vit_tiny_patch16_224", depth=4, num_heads=2, head_dim=16)
SWIN = partial(
    build_segmenter,
    "swin_tiny_patch4_window7_224",
    depths=(2, 1, 1, 1),
    num_heads=(1, 2, 4, 8),
    drop_path_rate=0.0,
    head_dim=16,
)
CONVNEXT = partial(build_segmenter, "convnext_atto", depths=(1, 1, 1, 1), head_dim=16)
HYBRID = partial(
    build_segmenter,
    "tap_fan_tiny_8_p4_hybrid",
    embed_dims=(32,),
    depths=(3,),
    stem_depths=(1, 1),
    out_indices=(0, 1, -2, -1),
    head_dim=16,
)
RELEASED = partial(build_segmenter, "tap_fan_tiny_8_p4_hybrid", head_dim=16)
PLAIN_FAN = partial(
    build_segmenter, "fan_tiny_12_p16_224", embed_dims=(32,), depths=(2,), out_indices=(0, 1, 2), head_dim=16
)
RVT = partial(build_segmenter, "tap_rvt_tiny", depths=(1, 1), out_indices=(0, 1), head_dim=16)


def randomized(module):
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.double()


def published_form(head, features):
    """Every level enlarged to the first, concatenated with the coarsest first, convolved."""
    enlarged = []
    for level in range(len(features), 0, -1):
        feature = features[level - 1]
        linear = getattr(head, f"linear_c{level}").proj
        projected = linear(feature.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, feature.shape[2:])
        enlarged.append(F.interpolate(projected, size=features[0].shape[2:], mode="bilinear"))
    fused = head.linear_fuse.bn(head.linear_fuse.conv(torch.cat(enlarged, dim=1))).relu()
    return head.linear_pred(fused)


@pytest.mark.parametrize(
    "sizes", [[(12, 20), (6, 10), (3, 5), (3, 5)], [(7, 5), (7, 5)], [(9, 4), (5, 2), (2, 1)], [(6, 4)]]
)
def test_head_computes_what_the_published_form_computes(sizes):
    widths = (6, 4, 8, 5)[: len(sizes)]
    features = [torch.randn(2, w, *s, dtype=torch.float64) for w, s in zip(widths, sizes, strict=True)]
    head = randomized(SegFormerHead(widths, num_classes=3, embed_dim=7, dropout=0.0))
    for mode in (head.eval(), copy.deepcopy(head).train()):
        expected = published_form(copy.deepcopy(mode), features)
        torch.testing.assert_close(mode(features), expected)


def test_head_has_the_published_names_and_as_many_parameters_as_they_add_up_to():
    head = SegFormerHead((128, 256, 448, 448), num_classes=19)
    assert [name for name, _ in head.named_parameters()] == [
        *(f"linear_c{level}.proj.{leaf}" for level in (4, 3, 2, 1) for leaf in ("weight", "bias")),
        *("linear_fuse.conv.weight", "linear_fuse.bn.weight", "linear_fuse.bn.bias"),
        *("linear_pred.weight", "linear_pred.bias"),
    ]
    linears = (128 + 256 + 448 + 448 + 4) * 768
    assert sum(p.numel() for p in head.parameters()) == linears + 4 * 768**2 + 2 * 768 + 769 * 19


@pytest.mark.parametrize("number", [1, 3])
def test_more_or_fewer_features_than_levels_are_refused(number):
    with pytest.raises(ValueError, match=f"expected features of 2 levels, got {number}"):
        SegFormerHead((4, 4), num_classes=2, embed_dim=8)([torch.zeros(1, 4, 2, 2)] * number)


def test_dropout_leaves_out_whole_channels_in_training_only():
    head = SegFormerHead((4,), num_classes=2, embed_dim=64, dropout=0.5)
    seen = []
    head.linear_pred.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    feature = torch.randn(3, 4, 8, 8)
    head.train()([feature])
    head.eval()([feature])
    dropped = [(fused == 0).flatten(2).all(dim=2).float().mean().item() for fused in seen]
    assert 0.3 < dropped[0] < 0.7
    assert dropped[1] < 0.1


@pytest.mark.parametrize(
    ("name", "indices", "strides", "widths"),
    [
        ("fan_tiny_12_p16_224", [4, 7, 11, 12], [16] * 4, [192] * 4),
        ("fan_tiny_8_p4_hybrid", [0, 1, 9, 10], [4, 8, 16, 16], [128, 256, 192, 192]),
        ("tap_fan_small_12_p4_hybrid", [0, 1, 11, 12], [4, 8, 16, 16], [128, 256, 384, 384]),
        ("fan_large_16_p4_hybrid", [0, 1, 20, 24], [4, 8, 16, 16], [128, 256, 480, 480]),
        ("tap_fan_swin_tiny_patch4_window7_224", [0, 1, 2, 3], [4, 8, 16, 32], [96, 192, 384, 768]),
        ("tap_rvt_tiny", [9, 11], [16, 32], [192, 384]),
        ("vit_base_patch16_224", [2, 5, 8, 11], [16] * 4, [768] * 4),
        ("swin_tiny_patch4_window7_224", [0, 1, 2, 3], [4, 8, 16, 32], [96, 192, 384, 768]),
        ("convnext_tiny", [0, 1, 2, 3], [4, 8, 16, 32], [96, 192, 384, 768]),
        ("pvt_v2_b1", [0, 1, 2, 3], [4, 8, 16, 32], [64, 128, 320, 512]),
        ("resnet50", [1, 2, 3, 4], [4, 8, 16, 32], [256, 512, 1024, 2048]),
    ],
)
def test_features_have_these_strides_and_widths(name, indices, strides, widths):
    with torch.device("meta"):
        segmenter = build_segmenter(name, num_classes=19)
        features = segmenter.eval().features(torch.empty(1, 3, 256, 512))
        assert segmenter.decode_head(features).shape[2:] == features[0].shape[2:]
    assert segmenter.out_indices == indices
    assert [feature.shape for feature in features] == [
        (1, width, 256 // stride, 512 // stride) for width, stride in zip(widths, strides, strict=True)
    ]


@pytest.mark.parametrize("build", [SWIN, CONVNEXT])
def test_features_of_stages_are_those_of_timms_features_only(build):
    segmenter = build(num_classes=3).eval()
    options = {key: value for key, value in build.keywords.items() if key != "head_dim"}
    features_only = timm.create_model(build.args[0], features_only=True, **options).eval()
    names = {key.replace("_", "."): key for key in features_only.state_dict()}
    own = segmenter.backbone.state_dict()
    features_only.load_state_dict({names[key.replace("_", ".")]: own[key] for key in own})
    images = torch.randn(1, 3, 224, 224)
    expected = features_only(images)
    if build is SWIN:
        expected = [feature.permute(0, 3, 1, 2) for feature in expected]
    torch.testing.assert_close(segmenter.features(images), expected)


def test_features_of_a_vit_are_what_its_blocks_give_without_their_prefix():
    segmenter = VIT(num_classes=3)
    outputs = []
    for block in segmenter.backbone.blocks:
        block.register_forward_hook(lambda _block, _inputs, output: outputs.append(output))
    features = segmenter.features(torch.randn(2, 3, 32, 48))
    assert len(outputs) == len(features) == 4
    for feature, tokens in zip(features, outputs, strict=True):
        torch.testing.assert_close(feature.flatten(2).transpose(1, 2), tokens[:, 1:])


def test_other_features_can_be_chosen_and_what_lies_behind_them_is_left_out():
    segmenter = VIT(num_classes=3, out_indices=(0, -3))
    assert segmenter.out_indices == [0, 1]
    assert len(segmenter.backbone.blocks) == 2
    assert segmenter(torch.randn(1, 3, 32, 32)).shape == (1, 3, 32, 32)
    assert not any(name.startswith(("backbone.norm", "backbone.head")) for name in segmenter.state_dict())


@pytest.mark.parametrize("build", [HYBRID, PLAIN_FAN, RVT, VIT, SWIN, CONVNEXT])
def test_one_model_takes_images_of_any_size(build):
    segmenter = build(num_classes=5).eval()
    for size in [(64, 96), (50, 70), (97, 33), (64, 96)]:
        images = torch.randn(1, 3, *size)
        with torch.no_grad():
            logits = segmenter(images)
            whole = [-(-side // segmenter.stride) * segmenter.stride for side in size]
            padded = F.pad(images, (0, whole[1] - size[1], 0, whole[0] - size[0]))
            coarse = segmenter.decode_head(segmenter.features(padded))
        # a position of the map stays as many pixels as it was made of
        enlarged = F.interpolate(coarse, size=whole, mode="bilinear")
        torch.testing.assert_close(logits, enlarged[..., : size[0], : size[1]])
        assert logits.shape == (1, 5, *size)
        assert logits.isfinite().all()


def step(segmenter, images, labels):
    """Loss and gradients of a training step with cross entropy and ADL."""
    segmenter.zero_grad()
    with tapadl.AttentionDiversificationLoss(segmenter, tau=0.5) as diversification:
        loss = pixel_cross_entropy(segmenter(images), labels)
        per_layer = diversification.per_layer()
        loss = loss + torch.stack(per_layer).mean()
    loss.backward()
    return loss.detach(), per_layer, {name: p.grad.clone() for name, p in segmenter.named_parameters()}


@pytest.mark.parametrize(("build", "num_layers"), [(HYBRID, 3), (VIT, 4), (SWIN, 5)])
def test_tap_goes_in_and_out_and_the_diversification_loss_hears_every_block(build, num_layers):
    segmenter = build(num_classes=5, head_dropout=0.0)
    images, labels = torch.randn(1, 3, 50, 70), torch.randint(0, 5, (1, 50, 70))
    if build is not HYBRID:
        before = {name: tensor.clone() for name, tensor in segmenter.state_dict().items()}
        plain = segmenter.eval()(images)
        tapadl.attach_tap(segmenter)
        assert not torch.equal(segmenter(images), plain)
        tapadl.detach_tap(segmenter)
        assert torch.equal(segmenter(images), plain)
        assert before.keys() == segmenter.state_dict().keys()
        tapadl.attach_tap(segmenter)
    assert sum(name.endswith("tap.dilation_predictor.proj.0.weight") for name in segmenter.state_dict()) == (
        num_layers
    )
    loss, per_layer, gradients = step(segmenter.train(), images, labels)
    assert loss.isfinite()
    assert len(per_layer) == num_layers
    assert all(layer > 0 for layer in per_layer)
    assert all(gradient.isfinite().all() for gradient in gradients.values())


@pytest.mark.parametrize("build", [HYBRID, VIT, SWIN])
def test_gradient_checkpointing_changes_no_loss_gradient_or_statistic(build):
    segmenter = tapadl.attach_tap(build(num_classes=3, head_dropout=0.0)).double().train()
    again = copy.deepcopy(segmenter)
    again.set_grad_checkpointing()
    calls = []
    for site in find_sites(again):
        site.block.norm1.register_forward_hook(lambda *_: calls.append(1))
    images, labels = torch.randn(2, 3, 48, 64, dtype=torch.float64), torch.randint(0, 3, (2, 48, 64))
    loss, per_layer, gradients = step(segmenter, images, labels)
    checkpointed = step(again, images, labels)
    assert len(calls) == 2 * len(per_layer)
    torch.testing.assert_close(checkpointed, (loss, per_layer, gradients))
    torch.testing.assert_close(dict(again.named_buffers()), dict(segmenter.named_buffers()))


def test_weight_decay_leaves_alone_what_the_backbone_names():
    segmenter = HYBRID(num_classes=3)
    named = segmenter.no_weight_decay()
    assert named <= {name for name, _ in segmenter.named_parameters()}
    assert {"backbone.cls_token", "backbone.pos_embed.token_projection.weight"} <= named
    assert CONVNEXT(num_classes=3).no_weight_decay() == set()


def test_weights_of_a_classifier_become_those_of_the_backbone(tmp_path):
    classifier = timm.create_model("tap_fan_tiny_8_p4_hybrid", depths=(1,))
    torch.save(classifier.state_dict(), tmp_path / "classifier.pth")
    segmenter = build_segmenter(
        "tap_fan_tiny_8_p4_hybrid",
        3,
        depths=(1,),
        out_indices=(0, -1),
        checkpoint_path=str(tmp_path / "classifier.pth"),
    )
    own = classifier.state_dict()
    for name, tensor in segmenter.backbone.state_dict().items():
        assert torch.equal(tensor, own[name]), name


def test_a_backbone_without_features_is_refused(monkeypatch):
    class Blind(nn.Module):
        pass

    monkeypatch.setattr(timm, "create_model", lambda _name, **_options: Blind())
    with pytest.raises(
        ValueError, match="expected a backbone with forward_intermediates, got blind, a Blind"
    ):
        build_segmenter("blind", num_classes=3)


@pytest.fixture(scope="module")
def released():
    """A checkpoint as MMSegmentation writes it, of a segmenter with the released position table."""
    segmenter = RELEASED(num_classes=5, paired_frequencies=False).eval()
    weights = to_official(segmenter.state_dict(), "tap_fan_tiny_8_p4_hybrid")
    unused = {
        "decode_head.conv_seg.weight": torch.zeros(5, 256, 1, 1),
        "decode_head.conv_seg.bias": torch.zeros(5),
    }
    return segmenter, {"meta": {"CLASSES": ["road"], "iter": 160000}, "state_dict": weights | unused}


def test_to_official_and_back_is_the_identity(released):
    segmenter, _ = released
    ours = segmenter.state_dict()
    official = to_official(ours, "tap_fan_tiny_8_p4_hybrid")
    assert "backbone.blocks.0.dilation_predictor.proj.0.weight" in official
    back = from_official(official, "tap_fan_tiny_8_p4_hybrid")
    assert {key: id(tensor) for key, tensor in back.items()} == {key: id(t) for key, t in ours.items()}
    assert from_official(ours, "tap_fan_tiny_8_p4_hybrid").keys() == ours.keys()


def test_a_released_segmenter_becomes_a_file_that_computes_the_same(released, tmp_path):
    segmenter, checkpoint = released
    torch.save(checkpoint, tmp_path / "released.pth")
    facts = convert(tmp_path / "released.pth", tmp_path / "ours.safetensors", "tap_fan_tiny_8_p4_hybrid")
    assert facts["source_wrapper"] == "state_dict"
    assert facts["recipe"] == "see the page"
    again = convert(tmp_path / "ours.safetensors", tmp_path / "again.safetensors", "tap_fan_tiny_8_p4_hybrid")
    assert again == facts
    images = torch.randn(1, 3, 64, 96)
    loaded = load_segmenter(tmp_path / "again.safetensors").eval()
    assert torch.equal(loaded(images), segmenter(images))
    loaded.backbone.pos_embed.paired_frequencies = True
    assert not torch.allclose(loaded(images), segmenter(images))


def test_features_of_a_shallower_fan_have_to_be_named():
    with pytest.raises(ValueError, match="expected out_indices for fan_tiny_12_p16_224 of another depth"):
        build_segmenter("fan_tiny_12_p16_224", 2, depths=(2,))
    named = build_segmenter("fan_tiny_12_p16_224", 2, head_dim=8, out_indices=(0, 1), depths=(2,)).eval()
    assert named(torch.zeros(1, 3, 32, 48)).shape == (1, 2, 32, 48)


def test_ones_own_segmenter_keeps_the_position_table_of_classifiers(tmp_path):
    segmenter = build_segmenter("fan_tiny_12_p16_224", num_classes=2, head_dim=8).eval()
    save_file(segmenter.state_dict(), tmp_path / "own.safetensors")
    convert(tmp_path / "own.safetensors", tmp_path / "shared.safetensors", "fan_tiny_12_p16_224")
    images = torch.randn(1, 3, 32, 48)
    assert torch.equal(load_segmenter(tmp_path / "shared.safetensors").eval()(images), segmenter(images))


@pytest.mark.parametrize(
    ("change", "name", "message"),
    [
        ({"decode_head.linear_c9.proj.bias": torch.zeros(1)}, "tap_fan_tiny_8_p4_hybrid",
         "with decode_head.linear_c9.proj.bias too much"),
        ({"backbone.norm.weight": torch.zeros(192)}, "tap_fan_tiny_8_p4_hybrid",
         "with backbone.norm.weight too much"),
        ({"decode_head.linear_c1.proj.weight": torch.zeros(16, 64)}, "tap_fan_tiny_8_p4_hybrid",
         r"linear_c1.proj.weight of shape \(16, 64\) instead of \(16, 128\)"),
        ({"decode_head.linear_pred.weight": None}, "tap_fan_tiny_8_p4_hybrid",
         "without decode_head.linear_pred.weight"),
        ({"decode_head.linear_fuse.conv.weight": None}, "tap_fan_tiny_8_p4_hybrid",
         "without decode_head.linear_fuse.conv.weight"),
        ({}, "fan_tiny_8_p4_hybrid", "hold TAP, so they are not of fan_tiny_8_p4_hybrid"),
        ({}, "tap_fan_tiny_12_p16_224", "the weights are not of tap_fan_tiny_12_p16_224: without backbone"),
    ],
)  # fmt: skip
def test_weights_of_another_segmenter_are_refused_in_words(released, change, name, message):
    weights = released[1]["state_dict"] | change
    with pytest.raises(ValueError, match=message):
        from_official({key: tensor for key, tensor in weights.items() if tensor is not None}, name)


def test_a_segmenter_is_no_folder_for_timm_and_a_classifier_no_segmenter(released, tmp_path):
    torch.save(released[1], tmp_path / "released.pth")
    with pytest.raises(ValueError, match=r"expected a \.safetensors file for a segmenter, got .*folder"):
        convert(tmp_path / "released.pth", tmp_path / "folder", "tap_fan_tiny_8_p4_hybrid")
    assert not (tmp_path / "folder").exists()
    torch.save(timm.create_model("fan_tiny_12_p16_224").state_dict(), tmp_path / "classifier.pth")
    for source, target in (("classifier.pth", "classifier.safetensors"), ("released.pth", None)):
        if target is not None:
            convert(tmp_path / source, tmp_path / target, "fan_tiny_12_p16_224")
        with pytest.raises(ValueError, match="tapadl train or tapadl convert has written in"):
            load_segmenter(tmp_path / (target or source))
