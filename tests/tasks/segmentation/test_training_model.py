from functools import partial

import pytest
import timm
import torch
from safetensors.torch import save_file

import tapadl
from tapadl.data.segmentation import LabelScheme
from tapadl.tasks.segmentation.loss import pixel_cross_entropy
from tapadl.tasks.segmentation.model import SegmenterDescription
from tapadl.tasks.segmentation.training_model import build_model
from tapadl.training.adaptation import DiversificationTerm
from tapadl.training.objective import SupervisedObjective
from tapadl.training.settings import (
    AdlSettings,
    AugmentationSettings,
    DataSettings,
    ModelSettings,
    SegmentationSettings,
    Settings,
    TapSettings,
    TrainingSettings,
)

TINY = {"patch_size": 8, "img_size": [32, 48], "depth": 2}
OFF = TapSettings(enabled=False)


def scheme(count=3):
    colours = tuple((10 * number, 0, 0) for number in range(count))
    return LabelScheme(tuple("abcdefgh"[:count]), tuple(range(count)), (255,), colours)


def settings(name="test_vit", tap=OFF, training=None, augmentation=None, options=None, **model):
    return Settings(
        ModelSettings(name, options=TINY if options is None else options, **model),
        DataSettings("scenes"),
        task="segmentation",
        tap=tap,
        segmentation=SegmentationSettings(head_dim=8),
        training=training or TrainingSettings(),
        augmentation=augmentation or AugmentationSettings(),
    )


def saved(tmp_path, model):
    path = tmp_path / "start.safetensors"
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
    return path


def classifier(depth=2, **options):
    torch.manual_seed(9)
    return timm.create_model("test_vit", **{**TINY, "depth": depth}, num_classes=5, **options)


def test_tap_is_attached_as_the_settings_say_beside_the_weights_of_the_plain_one():
    tap = TapSettings(num_branches=3, temperature=2.0, init="identity", blocks=(1,))
    built = build_model(settings(tap=tap), scheme())
    backbone = built.model.backbone
    assert not hasattr(backbone.blocks[0], "tap")
    assert (backbone.blocks[1].tap.num_branches, backbone.blocks[1].tap.temperature) == (3, 2.0)
    plain = build_model(settings(), scheme()).model.state_dict()
    assert all(torch.equal(built.model.state_dict()[name], value) for name, value in plain.items())
    assert built.blocks() == list(backbone.blocks)


def test_the_description_builds_the_same_segmenter_again():
    for tap in (OFF, TapSettings(blocks=(0,), temperature=0.5)):
        built = build_model(settings(tap=tap, drop_path=0.3), scheme())
        again = SegmenterDescription.from_text(built.description.to_text()).build()
        again.load_state_dict(built.model.state_dict())
        images = torch.rand(1, 3, 40, 56)
        assert torch.equal(again.eval()(images), built.model.eval()(images))
        assert built.model.backbone.blocks[1].drop_path1.drop_prob == pytest.approx(0.3)


def test_images_are_normalised_as_the_backbone_says_or_the_settings():
    cfg = timm.get_pretrained_cfg("test_vit")
    assert build_model(settings(), scheme()).description.mean == cfg.mean
    other = AugmentationSettings(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    description = build_model(settings(augmentation=other), scheme()).description
    assert (description.mean, description.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    with pytest.raises(ValueError, match=r"augmentation\.mean of the 3 channels of pictures, got 1"):
        build_model(settings(augmentation=AugmentationSettings(mean=(0.5,), std=(0.5,))), scheme())


def test_the_backbone_begins_with_the_weights_of_a_classifier_without_its_head(tmp_path):
    start = classifier()
    model = build_model(settings(checkpoint=saved(tmp_path, start)), scheme()).model
    begun = model.backbone.state_dict()
    assert all(torch.equal(value, start.state_dict()[name]) for name, value in begun.items())
    assert set(start.state_dict()) - set(begun) == {"norm.weight", "norm.bias", "head.weight", "head.bias"}


def test_tap_in_the_classifier_comes_along(tmp_path):
    start = tapadl.attach_tap(classifier(), num_branches=3)
    path = saved(tmp_path, start)
    model = build_model(settings(tap=TapSettings(num_branches=3), checkpoint=path), scheme()).model
    begun = model.backbone.state_dict()
    assert any(".tap." in name for name in begun)
    assert all(torch.equal(value, start.state_dict()[name]) for name, value in begun.items())
    with pytest.raises(ValueError, match=r"tap\.enabled to be true, for .* holds TAP"):
        build_model(settings(checkpoint=path), scheme())
    with pytest.raises(ValueError, match="of another shape"):
        build_model(settings(tap=TapSettings(), checkpoint=path), scheme())


def test_weights_that_are_missing_are_named(tmp_path):
    path = saved(tmp_path, classifier(depth=1))
    with pytest.raises(ValueError, match=r"start\.safetensors do not fit test_vit.*blocks\.1\.norm1\.weight"):
        build_model(settings(checkpoint=path), scheme())


def test_a_segmenter_is_the_start_and_its_last_layer_is_new_for_other_classes(tmp_path):
    first = build_model(settings(training=TrainingSettings(seed=5)), scheme()).model
    path = saved(tmp_path, first)
    same = build_model(settings(checkpoint=path), scheme()).model
    assert all(torch.equal(value, first.state_dict()[name]) for name, value in same.state_dict().items())
    other = build_model(settings(checkpoint=path, tap=TapSettings()), scheme(4)).model.state_dict()
    kept = {name for name in first.state_dict() if "linear_pred" not in name}
    assert all(torch.equal(other[name], first.state_dict()[name]) for name in kept)
    assert other["decode_head.linear_pred.weight"].shape[0] == 4
    assert {name for name in other if name not in first.state_dict()} == {
        name for name in other if ".tap." in name
    }
    with pytest.raises(ValueError, match=r"of another shape|unexpected"):
        build_model(settings(checkpoint=path, options={**TINY, "depth": 1}), scheme())


FAN = {"embed_dims": [16], "depths": [8], "num_heads": [2], "stem_depths": [1, 1]}


@pytest.mark.parametrize(("name", "options"), [("test_vit", TINY), ("tap_fan_tiny_8_p4_hybrid", FAN)])
def test_every_parameter_has_a_gradient_as_ddp_demands(name, options):
    model = build_model(settings(name, tap=TapSettings(), options=options), scheme()).model
    pixel_cross_entropy(model(torch.rand(2, 3, 32, 48)), torch.zeros(2, 32, 48, dtype=torch.long)).backward()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []


def test_a_name_with_tap_has_it_and_refuses_other_settings():
    built = build_model(settings("tap_fan_tiny_8_p4_hybrid", tap=TapSettings(), options=FAN), scheme())
    assert built.description.tap is None
    assert sum(isinstance(m, tapadl.TokenAwareAveragePooling) for m in built.model.modules()) == 8
    other = settings("tap_fan_tiny_8_p4_hybrid", tap=TapSettings(num_branches=2), options=FAN)
    with pytest.raises(ValueError, match="expected the default tap settings for tap_fan_tiny_8_p4_hybrid"):
        build_model(other, scheme())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"name": "test_vitt"}, r"timm knows no model 'test_vitt'; did you mean test_vit"),
        ({"options": {"depht": 1}}, r"could not build test_vit with .*depht"),
        ({"name": "test_vit.x"}, r"could not build test_vit\.x: .*Invalid pretrained tag"),
        ({"name": "test_vit.x", "pretrained": True}, r"no weights of test_vit\.x can be downloaded"),
    ],
)
def test_a_backbone_that_cannot_be_is_told_in_a_sentence(model, message):
    with pytest.raises(ValueError, match=message):
        build_model(settings(**model), scheme())


def test_gradient_checkpointing_changes_neither_loss_nor_gradient():
    images, labels = torch.rand(2, 3, 32, 48), torch.randint(0, 3, (2, 32, 48))
    found = []
    for checkpointing in (False, True):
        training = TrainingSettings(grad_checkpointing=checkpointing)
        model = build_model(settings(tap=TapSettings(), training=training), scheme()).model.eval()
        assert model.backbone.grad_checkpointing is checkpointing
        objective = SupervisedObjective(
            partial(pixel_cross_entropy, count_ignored=True),
            diversification=DiversificationTerm.of(model, AdlSettings(tau=0.0)),
        )
        (run,) = objective.passes((images, labels), step=0)
        parts = run(model)
        assert parts["adl"] > 0
        parts["loss"].backward()
        found.append([parts["loss"], *(p.grad for p in model.parameters())])
    for plain, twice in zip(*found, strict=True):
        torch.testing.assert_close(twice, plain)
