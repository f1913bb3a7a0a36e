"""What we prepare, against what the libraries' own transforms make of the same pictures."""

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import nn

from tapadl.evaluation.library_preprocessing import from_timm, from_torchvision, from_transformers
from tapadl.evaluation.preprocessing import Preprocessing

SIZES = ((500, 375), (331, 500), (226, 223), (64, 51))  # width, height; the last is enlarged


def picture(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def assert_same_input(preprocessing: Preprocessing, image: Image.Image, expected: torch.Tensor) -> None:
    """The same 8-bit values; the normalised ones differ by rounding alone."""
    got = preprocessing.normalise(preprocessing.prepare(image).float() / 255)
    assert got.shape == expected.shape
    steps = (got - expected) * 255 * torch.tensor(preprocessing.std)[:, None, None]
    assert steps.abs().max() < 1e-3


def timm_model(**config) -> nn.Module:
    model = nn.Module()
    model.pretrained_cfg = {
        "input_size": (3, 224, 224),
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        **config,
    }
    return model


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 0.965, 1.0])
@pytest.mark.parametrize("image_size", [(224, 224), (96, 160)])
def test_pixels_equal_those_of_timm(crop_mode, crop_pct, image_size):
    model = timm_model(crop_mode=crop_mode, crop_pct=crop_pct, input_size=(3, *image_size))
    transform = create_transform(**resolve_model_data_config(model))
    for size in SIZES:
        assert_same_input(from_timm(model), picture(*size), transform(picture(*size)))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest", "lanczos", "box", "hamming"])
def test_interpolation_is_that_of_timm(interpolation):
    model = timm_model(interpolation=interpolation)
    transform = create_transform(**resolve_model_data_config(model))
    assert_same_input(from_timm(model), picture(500, 375), transform(picture(500, 375)))


def test_the_configuration_of_a_real_timm_model_is_taken():
    model = timm.create_model("vit_tiny_patch16_224", depth=1)
    expected = Preprocessing((224, 224), (0.5,) * 3, (0.5,) * 3, 0.9, "bicubic", "center")
    assert from_timm(model) == expected


def test_a_gray_configuration_is_taken_and_one_with_the_mean_of_colours_refused():
    assert from_timm(timm_model(input_size=(1, 28, 28), mean=(0.3,), std=(0.4,))).channels == 1
    with pytest.raises(ValueError, match="a mean and a std of 1 channels"):
        from_timm(timm_model(input_size=(1, 28, 28)))


@pytest.mark.parametrize(
    "name", ["vit_b_16", "swin_t", "swin_v2_b", "efficientnet_b1", "inception_v3", "resnet50"]
)
def test_pixels_equal_those_of_torchvision(name):
    transforms = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    for size in SIZES:
        assert_same_input(from_torchvision(transforms), picture(*size), transforms(picture(*size)))


@pytest.mark.slow
def test_every_classifier_of_torchvision_has_the_resize_of_its_weights():
    for name in torchvision.models.list_models(module=torchvision.models):
        transforms = torchvision.models.get_model_weights(name).DEFAULT.transforms()
        preprocessing = from_torchvision(transforms)
        # shown by the size of a picture whose shorter side is resized, before the crop
        assert preprocessing._resized(Image.new("RGB", (1000, 1000))) == tuple(transforms.resize_size * 2)


def test_transforms_of_other_tasks_are_refused():
    weights = torchvision.models.get_model_weights("fcn_resnet50").DEFAULT
    with pytest.raises(ValueError, match="expected the transforms of a classifier of torchvision"):
        from_torchvision(weights.transforms())


PROCESSORS = {
    "ViTImageProcessor": {},
    "ViTImageProcessorPil": {},
    "DeiTImageProcessor": {},
    "BeitImageProcessor": {"do_center_crop": True, "size": {"height": 256, "width": 256}},
    "CLIPImageProcessor": {},
    "ConvNextImageProcessor": {"size": {"shortest_edge": 224}},
    "EfficientNetImageProcessor": {"rescale_offset": True, "rescale_factor": 1 / 127.5},
    "LevitImageProcessor": {},
    "MobileNetV2ImageProcessor": {"size": {"shortest_edge": 100}, "crop_size": {"height": 64, "width": 64}},
    "PoolFormerImageProcessor": {},
    "SiglipImageProcessor": {"size": {"height": 96, "width": 160}, "do_normalize": False},
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_equal_those_of_the_processors_of_transformers(name):
    transformers = pytest.importorskip("transformers")
    processor = getattr(transformers, name)(**PROCESSORS[name])
    preprocessing = from_transformers(processor)
    for size in SIZES:
        expected = processor(images=picture(*size), return_tensors="pt")["pixel_values"][0]
        assert_same_input(preprocessing, picture(*size), torch.as_tensor(expected))


def test_a_large_convnext_is_squashed_as_its_processor_does_it():
    transformers = pytest.importorskip("transformers")
    assert from_transformers(transformers.ConvNextImageProcessor()).crop_mode == "squash"


def test_timm_models_inside_transformers_keep_the_configuration_of_timm():
    transformers = pytest.importorskip("transformers")
    config = timm_model(crop_pct=0.9).pretrained_cfg
    processor = transformers.TimmWrapperImageProcessor(pretrained_cfg=config)
    assert from_transformers(processor) == from_timm(timm_model(crop_pct=0.9))


@pytest.mark.parametrize("name", ["MobileViTImageProcessor", "ViltImageProcessor", "PerceiverImageProcessor"])
def test_processors_that_do_something_else_are_refused(name):
    transformers = pytest.importorskip("transformers")
    with pytest.raises(ValueError, match=rf"cannot do what {name} does .*of your own"):
        from_transformers(getattr(transformers, name)())
