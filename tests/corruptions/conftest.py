"""Pictures to corrupt: smooth shapes, hard edges and fine texture, in exact multiples of 1/255."""

from itertools import count

import imagecorruptions.corruptions as published
import numpy as np
import pytest
import torch
from PIL import Image

from tapadl.corruptions import corrupt


def picture(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """(height, width, channels) 8-bit."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    image = np.zeros((height, width, channels))
    for channel in range(channels):
        for _ in range(4):
            waves = generator.uniform(1, 12, 2)
            image[..., channel] += np.sin(2 * np.pi * (waves[0] * x + waves[1] * y) + generator.uniform(0, 6))
        centre, radius = generator.uniform(0.2, 0.8, 2), generator.uniform(0.1, 0.3)
        image[..., channel] += 2 * ((x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2)
    image += generator.normal(0, 0.2, image.shape)
    image = (image - image.min()) / max(np.ptp(image), 1e-9)
    return np.round(255 * image).astype(np.uint8)


def pictures(count: int, height: int, width: int, channels: int = 3) -> torch.Tensor:
    """(count, channels, height, width) float32 in 0..1."""
    stack = np.stack([picture(height, width, channels, seed) for seed in range(count)])
    return torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 255


@pytest.fixture(name="picture")
def picture_fixture():
    return picture


@pytest.fixture(name="pictures")
def pictures_fixture():
    return pictures


@pytest.fixture(name="to_tensor")
def to_tensor_fixture():
    return lambda image: torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255


@pytest.fixture(name="to_array")
def to_array_fixture():
    """(1, C, H, W) in 0..1 as the (H, W, C) in 0..255 of the published script."""
    return lambda images: images[0].permute(1, 2, 0).double().numpy() * 255


@pytest.fixture(name="assert_changes_as_much_as_published")
def assert_changes_as_much_as_published_fixture():
    """Mean absolute change within 3 % plus three standard errors of the comparison, at the constants of 224.

    The standard error is that of the difference of the two means over `draws` draws each. Of the change it is
    0.1 to 0.6 % for noise, glass and snow, 0.3 to 1.3 % for motion and fog, and 0.8 to 3.3 % for spatter.
    """

    def check(corruption, severity, *, side, draws):
        image = picture(side, side)
        np.random.seed(0)  # noqa: NPY002, the published script draws from numpy's global state
        function = getattr(published, corruption)
        theirs = [
            np.abs(function(Image.fromarray(image), severity) - image.astype(np.float64)).mean()
            for _ in range(draws)
        ]
        images = torch.from_numpy(image).permute(2, 0, 1).float().repeat(draws, 1, 1, 1) / 255
        changed = corrupt(images, corruption, severity, seed=0, indices=torch.arange(draws), image_size=224)
        ours = (changed - images).abs().double().mean(dim=(1, 2, 3)).numpy() * 255
        error = np.sqrt(ours.var(ddof=1) / draws + np.var(theirs, ddof=1) / draws)
        # enough draws for the comparison to mean something
        assert error < 0.035 * np.mean(theirs)
        assert abs(ours.mean() - np.mean(theirs)) < 0.03 * np.mean(theirs) + 3 * error

    return check


@pytest.fixture(name="published_glass")
def published_glass_fixture(monkeypatch):
    """The published glass blur without its compiler: the same function in Python."""
    plain, seeds = published._shuffle_pixels_njit_glass_blur.py_func, count()
    monkeypatch.setattr(
        published,
        "_shuffle_pixels_njit_glass_blur",
        lambda height, width, image, constants, seed: plain(height, width, image, constants, next(seeds)),
    )
    return published.glass_blur
