"""Saving a model with TAP and loading it again: torch, timm, transformers; the recipes of docs/attach.md."""

import pytest
import safetensors.torch
import timm
import torch
import transformers

import tapadl

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
VIT = SMALL | {"image_size": 32, "patch_size": 8}
SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [2], "num_heads": [2], "window_size": 4}
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def trained(model):
    """A model whose parameters and running statistics are no longer those of a fresh one."""
    for _ in range(2):
        model.train()(IMAGES)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def output_of(model):
    with torch.no_grad():
        output = model.eval()(IMAGES)
    return output if isinstance(output, torch.Tensor) else output[0]


def vit():
    settings = {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 16,
        "depth": 2,
        "num_heads": 2,
        "num_classes": 3,
    }
    return timm.create_model("vit_tiny_patch16_224", **settings)


@pytest.mark.parametrize("init", ["paper", "identity"])
def test_a_state_dict_of_torch_gives_the_same_bits(tmp_path, init):
    model = trained(tapadl.attach_tap(vit(), init=init))
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    fresh = tapadl.attach_tap(vit(), init=init)
    fresh.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(output_of(fresh), output_of(model))


@pytest.mark.parametrize("file", ["weights.safetensors", "weights.pth"])
def test_a_checkpoint_through_timm_gives_the_same_bits(tmp_path, file):
    model = trained(tapadl.attach_tap(vit()))
    save = safetensors.torch.save_file if file.endswith("safetensors") else torch.save
    save(model.state_dict(), tmp_path / file)
    fresh = tapadl.attach_tap(vit())
    timm.models.load_checkpoint(fresh, str(tmp_path / file))
    assert torch.equal(output_of(fresh), output_of(model))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (None, "Unexpected key.*blocks.0.tap.dilation_predictor"),
        ({"num_branches": 2}, "size mismatch for blocks.0.tap.dilation_predictor"),
        ({"init": "identity"}, 'saved with init="paper".*built with init="identity"'),
    ],
)
def test_a_model_attached_in_another_way_does_not_load(options, message):
    state = tapadl.attach_tap(vit()).state_dict()
    other = vit() if options is None else tapadl.attach_tap(vit(), **options)
    with pytest.raises(RuntimeError, match=f"(?s){message}"):
        other.load_state_dict(state)


class RobustViTForImageClassification(transformers.ViTForImageClassification):
    def __init__(self, config):
        super().__init__(config)
        tapadl.attach_tap(self)


class RobustSwinForImageClassification(transformers.SwinForImageClassification):
    def __init__(self, config):
        super().__init__(config)
        tapadl.attach_tap(self, init="identity")


class RobustCLIPVisionModel(transformers.CLIPVisionModel):
    def __init__(self, config):
        super().__init__(config)
        tapadl.attach_tap(self)


CLASSES = pytest.mark.parametrize(
    ("model_class", "settings"),
    [
        (RobustViTForImageClassification, VIT),
        (RobustSwinForImageClassification, SWIN),
        (RobustCLIPVisionModel, VIT),
    ],
)


@CLASSES
def test_a_class_that_attaches_loads_from_pretrained_with_the_same_bits(tmp_path, model_class, settings):
    model = trained(model_class(model_class.config_class(**settings)))
    model.save_pretrained(tmp_path)
    loaded, report = model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert torch.equal(output_of(loaded), output_of(model))
    assert model.state_dict().keys() == loaded.state_dict().keys()
    for mine, theirs in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)


@CLASSES
def test_without_a_class_safetensors_load_with_the_same_bits(tmp_path, model_class, settings):
    library_class = model_class.__base__
    init = "identity" if model_class is RobustSwinForImageClassification else "paper"
    model = trained(tapadl.attach_tap(library_class(library_class.config_class(**settings)), init=init))
    model.save_pretrained(tmp_path, save_original_format=False)
    fresh = library_class(library_class.config_class.from_pretrained(tmp_path))
    safetensors.torch.load_model(tapadl.attach_tap(fresh, init=init), tmp_path / "model.safetensors")
    assert torch.equal(output_of(fresh), output_of(model))


def test_a_class_named_after_the_models_keeps_its_loss():
    model = RobustViTForImageClassification(transformers.ViTConfig(**VIT, num_labels=3))
    labels = torch.tensor([0, 2])
    output = model(IMAGES, labels=labels)
    torch.testing.assert_close(output.loss, torch.nn.functional.cross_entropy(output.logits, labels))


def test_the_plain_class_reports_that_it_leaves_tap_out(tmp_path):
    model = trained(RobustViTForImageClassification(transformers.ViTConfig(**VIT)))
    model.save_pretrained(tmp_path)
    _, report = transformers.ViTForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    left_out = set(report["unexpected_keys"])
    assert left_out == {name for name in model.state_dict() if ".tap." in name}


def test_tap_attached_to_loaded_weights_starts_from_their_output(tmp_path):
    model = trained(transformers.ViTForImageClassification(transformers.ViTConfig(**VIT)))
    model.save_pretrained(tmp_path)
    loaded = transformers.ViTForImageClassification.from_pretrained(tmp_path)
    tapadl.attach_tap(loaded, init="identity")
    assert torch.equal(output_of(loaded), output_of(model))
