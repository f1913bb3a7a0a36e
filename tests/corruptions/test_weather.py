import imagecorruptions.corruptions as published
import numpy as np
import pytest
import torch
from PIL import Image

from tapadl.corruptions import constants_for, corrupt
from tapadl.corruptions.random import Draws
from tapadl.corruptions.weather import plasma


def deal(numbers: np.ndarray):
    """A stand-in for numpy.random.uniform that deals out given numbers in 0..1 in order."""
    rest = iter(numbers.astype(np.float64))

    def uniform(low, high, shape):
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


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_fog_changes_images_as_much_as_published(severity, picture, to_tensor):
    image, count = picture(224, 224), 40
    clean = image.astype(np.float64)
    np.random.seed(0)  # noqa: NPY002, the published script draws from numpy's global state
    theirs = [np.abs(published.fog(Image.fromarray(image), severity) - clean).mean() for _ in range(count)]
    images = to_tensor(image).repeat(count, 1, 1, 1)
    changed = corrupt(images, "fog", severity, seed=0, indices=torch.arange(count))
    ours = (changed - images).abs().double().mean(dim=(1, 2, 3)).numpy() * 255
    error = np.sqrt(ours.var(ddof=1) / count + np.var(theirs, ddof=1) / count)
    assert abs(ours.mean() - np.mean(theirs)) < 0.03 * np.mean(theirs) + 3 * error


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
