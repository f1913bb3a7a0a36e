from pathlib import Path

import cv2
import imagecorruptions.corruptions as published
import numpy as np
import pytest
import torch
from PIL import Image

from tapadl.corruptions import constants_for, corrupt
from tapadl.corruptions.random import Draws
from tapadl.corruptions.weather import plasma, spatter


def deal(numbers: np.ndarray):
    """A stand-in for numpy.random.uniform that deals out given numbers in 0..1 in order."""
    rest = iter(numbers.astype(np.float64))

    def uniform(low, high, shape=()):
        dealt = np.array([next(rest) for _ in range(int(np.prod(shape)))]).reshape(shape)
        return low + (high - low) * dealt

    return uniform


@pytest.mark.parametrize("size", [2, 4, 32, 128])
@pytest.mark.parametrize("decay", [3, 2, 1.4])
def test_plasma_equals_published_with_the_same_numbers(size, decay, monkeypatch):
    numbers = np.random.default_rng(0).random((2, size * size - 1), dtype=np.float32)
    ours = plasma(torch.from_numpy(numbers), size, decay)
    for got, row in zip(ours, numbers, strict=True):
        monkeypatch.setattr(np.random, "uniform", deal(row))
        np.testing.assert_allclose(got.numpy(), published.plasma_fractal(size, decay), atol=2e-6)
    assert (ours.amin(dim=(1, 2)) == 0).all()
    assert (ours.amax(dim=(1, 2)) == 1).all()


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (40, 90)])
def test_fog_equals_published_with_the_same_numbers(
    severity, height, width, picture, to_tensor, to_array, monkeypatch
):
    image = picture(height, width) // 2
    side = 64 if height == 64 else 128
    monkeypatch.setattr(
        np.random, "uniform", deal(Draws(3, [4], "fog", severity).uniform(side * side - 1)[0])
    )
    expected = published.fog(Image.fromarray(image), severity)
    got = corrupt(to_tensor(image), "fog", severity, seed=3, indices=torch.tensor([4]), image_size=224)
    np.testing.assert_allclose(to_array(got), expected, atol=2e-3)


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_snow_equals_published_with_the_same_numbers(severity, picture, to_tensor, to_array, monkeypatch):
    side, image = 180, picture(180, 180)  # a multiple of all zooms: nothing is trimmed
    constants = constants_for("snow", severity, 224).values
    draws, core = Draws(3, [4], "snow", severity), int(side / constants["zoom"])
    noise, first = np.zeros((side, side)), (side - core) // 2
    noise[first : first + core, first : first + core] = draws.normal(1, core, core)[0, 0]
    monkeypatch.setattr(np.random, "normal", lambda size, loc, scale: noise * scale + loc)
    monkeypatch.setattr(np.random, "uniform", deal(draws.uniform()))
    expected = published.snow(Image.fromarray(image), severity)
    got = corrupt(to_tensor(image), "snow", severity, seed=3, indices=torch.tensor([4]), image_size=224)
    difference = np.abs(to_array(got) - expected)
    # Flakes are added twice; the oracle leaves out that they are rounded down to 8 bits before the smear.
    assert difference.max() < 4.1
    assert difference.mean() < 0.6


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_spatter_equals_published_with_the_same_numbers(severity, picture, to_tensor, to_array, monkeypatch):
    image = picture(224, 224)
    noise = Draws(3, [4], "spatter", severity).normal(1, 224, 224)[0, 0]
    monkeypatch.setattr(np.random, "normal", lambda size, loc, scale: noise * scale + loc)
    expected = published.spatter(Image.fromarray(image), severity)
    got = corrupt(to_tensor(image), "spatter", severity, seed=3, indices=torch.tensor([4]), image_size=224)
    difference, change = np.abs(to_array(got) - expected), np.abs(expected - image).mean()
    # Water: Euclidean against chamfer distances. Mud: a pixel more or less where a filter meets a threshold.
    assert difference.mean() < (0.03 if severity <= 3 else 0.001) * change


@pytest.mark.parametrize("severity", [1, 3, 5])
@pytest.mark.parametrize(
    ("corruption", "side", "draws"), [("snow", 128, 60), ("fog", 64, 400), ("spatter", 128, 200)]
)
def test_weather_changes_images_as_much_as_published(
    corruption, side, draws, severity, assert_changes_as_much_as_published
):
    assert_changes_as_much_as_published(corruption, severity, side=side, draws=draws)


def test_a_threshold_above_all_noise_leaves_a_dry_image(pictures):
    images = pictures(1, 20, 20)
    dry = spatter(
        images,
        Draws(0, [0], "spatter", 1),
        mean=0.1,
        std=0.01,
        blur_sigma=1,
        threshold=0.9,
        water_strength=0.6,
        mud_sigma=0,
    )
    assert torch.equal(dry, images)


@pytest.mark.parametrize("colour", [(63, 42, 20), (45.76,)], ids=["colour", "luma in gray images"])
def test_mud_replaces_at_least_four_fifths_of_a_pixel_by_its_colour(colour):
    white = torch.ones(4, len(colour), 64, 64)
    muddy = corrupt(white, "spatter", 5, seed=0, indices=torch.arange(4), image_size=224)
    cover = (1 - muddy) / (1 - torch.tensor(colour)[:, None, None] / 255)
    torch.testing.assert_close(cover, cover[:, :1].expand_as(cover), atol=1e-4, rtol=0)
    muddied = cover[cover > 1e-3]
    assert 0.79 < muddied.min() < muddied.max() < 1.001
    assert 0 < len(muddied) < cover.numel() / 2


def plain_frost(image, draws, image_weight, frost_weight, photograph_scale):
    """The definition, a second time, with OpenCV: image (H, W, C) in 0..255."""
    picture, top, left = draws.uniform(3)[0]
    name = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")[int(picture * 5)]
    photograph = cv2.imread(str(Path(published.__file__).parent / "frost" / name))[..., ::-1]
    if photograph_scale != 1:
        photograph = cv2.resize(photograph, (0, 0), fx=photograph_scale, fy=photograph_scale)
    (height, width), (rows, columns) = image.shape[:2], photograph.shape[:2]
    first_row, first_column = int(top * (rows - height)), int(left * (columns - width))
    crop = photograph[first_row : first_row + height, first_column : first_column + width]
    return np.clip(image_weight * image + frost_weight * crop.astype(np.float64), 0, 255)


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("size", [224, 64, 32])
def test_frost_equals_its_definition(size, severity, picture, to_tensor, to_array):
    image = picture(size, size)
    constants = constants_for("frost", severity, size).values
    for index in range(5):
        draws = Draws(1, [index], "frost", severity)
        got = corrupt(to_tensor(image), "frost", severity, seed=1, indices=torch.tensor([index]))
        # Scaling rounds to 8 bits, in OpenCV with weights of 11 bits; another JPEG decoder may round too.
        np.testing.assert_allclose(
            to_array(got), plain_frost(image, draws, **constants), atol=2.01 * constants["frost_weight"]
        )


def test_fog_of_a_black_image_is_black():
    images = torch.zeros(2, 3, 20, 20)
    assert torch.equal(corrupt(images, "fog", 5, seed=0, indices=torch.arange(2)), images)


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_brightness_equals_published(severity, picture, to_tensor, to_array):
    image = picture(60, 50)
    image[:5], image[5:9], image[9:12, :, 1:] = 0, 255, 0
    expected = published.brightness(Image.fromarray(image), severity)
    got = corrupt(to_tensor(image), "brightness", severity, seed=0, indices=torch.tensor([0]), image_size=224)
    np.testing.assert_allclose(to_array(got), expected, atol=1e-3)


@pytest.mark.parametrize("severity", [1, 5])
def test_brightness_of_a_gray_image_is_added_and_clipped(severity):
    images = torch.linspace(0, 1, 49).reshape(1, 1, 7, 7)
    added = constants_for("brightness", severity, 7).values["added_value"]
    got = corrupt(images, "brightness", severity, seed=0, indices=torch.tensor([0]))
    torch.testing.assert_close(got, (images + added).clamp(max=1))


def test_brightness_survives_the_smallest_numbers():
    images = torch.tensor([1e-45, 0.0, 1e-38]).reshape(1, 3, 1, 1)
    assert corrupt(images, "brightness", 5, seed=0, indices=torch.tensor([0])).isfinite().all()
