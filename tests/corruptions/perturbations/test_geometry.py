"""Pillow's and torchvision's affine maps, and the geometry of a camera written out, as oracles."""

import math

import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as F
from torchvision.transforms import v2

from tapadl.corruptions.perturbations import perturb

SIDE, CROP = 72, 63


@pytest.fixture
def images(pictures):
    return pictures(1, SIDE, SIDE + 9, 1)


def frames_of(images, perturbation, **arguments):
    arguments = {"crop_size": CROP, "image_size": 224} | arguments
    return perturb(images, perturbation, seed=0, indices=torch.tensor([0]), **arguments)[0]


def through_pillow(images, **changes):
    """torchvision's affine map of a Pillow image of floats, its middle cut out."""
    arguments = {"angle": 0, "translate": (0, 0), "scale": 1, "shear": 0} | changes
    image = Image.fromarray(images[0, 0].numpy())
    moved = F.affine(image, interpolation=v2.InterpolationMode.BILINEAR, **arguments)
    return v2.functional.pil_to_tensor(F.center_crop(moved, CROP))


def assert_alike(frame, expected):
    """Equal but for single pixels on the border of the black, where the last bit decides."""
    different = (frame - expected).abs() > 1e-5
    assert different.float().mean() < 2e-3


@pytest.mark.parametrize("frame", [0, 7, 15, 30])
def test_translate_slides_to_the_right_by_whole_pixels(images, frame):
    expected = through_pillow(images, translate=(frame - 15, 0))
    assert torch.equal(frames_of(images, "translate")[frame], expected)


@pytest.mark.parametrize("frame", [0, 9, 30])
def test_rotate_turns_as_torchvision_does(images, frame):
    assert_alike(frames_of(images, "rotate")[frame], through_pillow(images, angle=frame - 15))


@pytest.mark.parametrize("frame", [0, 10, 24, 30])
def test_scale_goes_from_two_fifths_to_more_than_one(images, frame):
    assert_alike(frames_of(images, "scale")[frame], through_pillow(images, scale=0.4 + 0.025 * frame))


@pytest.mark.parametrize("frame", [0, 12, 30])
def test_shear_leans_the_vertical_axis_and_keeps_its_length(images, frame):
    angle = math.radians(frame - 15)
    height, width = images.shape[2:]
    # x' = x - sin y, y' = cos y about the centre, solved for x and y
    tangent, inverse = math.tan(angle), 1 / math.cos(angle)
    coefficients = (1, tangent, -tangent * height / 2, 0, inverse, (1 - inverse) * height / 2)
    image = Image.fromarray(images[0, 0].numpy())
    moved = image.transform((width, height), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    expected = v2.functional.pil_to_tensor(F.center_crop(moved, CROP))
    assert_alike(frames_of(images, "shear")[frame], expected)


@pytest.mark.parametrize("frame", [0, 11, 15, 30])
def test_tilt_shows_each_point_where_a_camera_sees_it(frame):
    height, width = 60, 80
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    # the picture shows where its points are, so a frame shows where they came from
    ramps = torch.stack((x / width, y / height, torch.ones_like(x)))[None]
    seen = frames_of(ramps, "tilt", crop_size=None)[frame]
    angle, focal_length = math.radians(frame - 15), math.hypot(height, width)
    sin, cos = math.sin(angle), math.cos(angle)
    for row, column in ((30, 40), (20, 25), (41, 60), (15, 66)):
        right = seen[0, row, column].item() * width - width / 2
        down = seen[1, row, column].item() * height - height / 2
        right, depth = cos * right - sin, sin * right + cos
        down, depth = cos * down - sin * depth, sin * down + cos * depth
        depth += focal_length
        assert focal_length * right / depth + width / 2 == pytest.approx(column + 0.5, abs=1e-3)
        assert focal_length * down / depth + height / 2 == pytest.approx(row + 0.5, abs=1e-3)


def test_what_comes_from_outside_is_black_and_a_margin_keeps_it_out():
    white = torch.ones(1, 3, 256, 256)
    assert frames_of(white, "rotate", crop_size=None)[0, :, 0, 0].max() == 0
    assert frames_of(white, "translate", crop_size=224).min() == 1
    assert frames_of(white, "scale", crop_size=224)[0, :, :60].max() == 0


@pytest.mark.parametrize("perturbation", ["translate", "rotate", "shear"])
def test_the_middle_frame_is_the_image(images, perturbation):
    expected = v2.functional.center_crop(images[0], [CROP, CROP])
    assert torch.equal(frames_of(images, perturbation)[15], expected)


def test_small_images_slide_by_half_pixels():
    ramp = (torch.arange(32.0) / 32).expand(1, 1, 32, 32)
    sequence = perturb(ramp, "translate", seed=0, indices=torch.tensor([0]))[0]
    assert torch.allclose(sequence[16, 0, :, 1:], ramp[0, 0, :, 1:] - 0.5 / 32, atol=1e-6)
