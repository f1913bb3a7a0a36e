import imagecorruptions.corruptions as published
import numpy as np
import pytest
import torch
from PIL import Image

from tapadl.corruptions import corrupt
from tapadl.corruptions.random import Draws


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_gaussian_noise_equals_published_with_the_same_numbers(
    severity, picture, to_tensor, to_array, monkeypatch
):
    image = picture(40, 50)
    drawn = Draws(5, [9], "gaussian_noise", severity).normal(3, 40, 50)[0].transpose(1, 2, 0)
    monkeypatch.setattr(np.random, "normal", lambda size, scale: drawn.astype(np.float64) * scale)
    expected = published.gaussian_noise(Image.fromarray(image), severity)
    got = corrupt(
        to_tensor(image), "gaussian_noise", severity, seed=5, indices=torch.tensor([9]), image_size=224
    )
    np.testing.assert_allclose(to_array(got), expected, atol=1e-3)


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_speckle_noise_equals_published_with_the_same_numbers(
    severity, picture, to_tensor, to_array, monkeypatch
):
    image = picture(40, 50)
    drawn = Draws(5, [9], "speckle_noise", severity).normal(3, 40, 50)[0].transpose(1, 2, 0)
    monkeypatch.setattr(np.random, "normal", lambda size, scale: drawn.astype(np.float64) * scale)
    expected = published.speckle_noise(Image.fromarray(image), severity)
    got = corrupt(
        to_tensor(image), "speckle_noise", severity, seed=5, indices=torch.tensor([9]), image_size=224
    )
    np.testing.assert_allclose(to_array(got), expected, atol=1e-3)


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_speckle_noise_changes_images_as_much_as_published(severity, assert_changes_as_much_as_published):
    assert_changes_as_much_as_published("speckle_noise", severity, side=224, draws=4)


@pytest.mark.parametrize("severity", [1, 3, 5])
@pytest.mark.parametrize("corruption", ["gaussian_noise", "shot_noise", "impulse_noise"])
def test_noise_changes_images_as_much_as_published(corruption, severity, picture, to_tensor):
    image, count = picture(224, 224), 4
    clean = image.astype(np.float64)
    np.random.seed(0)  # noqa: NPY002, the published script draws from numpy's global state
    settings = [{"seed": seed} if corruption == "impulse_noise" else {} for seed in range(count)]
    theirs = [
        np.abs(getattr(published, corruption)(Image.fromarray(image), severity, **setting) - clean).mean()
        for setting in settings
    ]
    images = to_tensor(image).repeat(count, 1, 1, 1)
    changed = corrupt(images, corruption, severity, seed=0, indices=torch.arange(count))
    ours = (changed - images).abs().double().mean(dim=(1, 2, 3)).numpy() * 255
    error = np.sqrt(ours.var(ddof=1) / count + np.var(theirs, ddof=1) / count)
    assert error < 0.015 * np.mean(theirs)
    assert abs(ours.mean() - np.mean(theirs)) < 0.03 * np.mean(theirs) + 3 * error


def test_shot_noise_keeps_the_mean_and_has_the_variance_of_counts():
    images = torch.full((64, 3, 32, 32), 0.3)
    noisy = corrupt(images, "shot_noise", 2, seed=0, indices=torch.arange(64)).double()
    photons, count = 250, images.numel()
    assert noisy.mean().item() == pytest.approx(0.3, abs=4 * (0.3 / photons / count) ** 0.5)
    assert noisy.var().item() == pytest.approx(0.3 / photons, rel=0.02)
    counts = noisy * photons
    torch.testing.assert_close(counts, counts.round(), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("severity", "amount"), [(1, 0.03), (5, 0.27)])
def test_impulse_noise_makes_half_salt_half_pepper_in_each_channel(severity, amount):
    images = torch.full((16, 3, 224, 224), 0.5)
    noisy = corrupt(images, "impulse_noise", severity, seed=0, indices=torch.arange(16))
    count = images.numel() / 3
    for channel in noisy.unbind(1):
        for value in (0, 1):
            share = (channel == value).double().mean().item()
            assert share == pytest.approx(amount / 2, abs=4 * (amount / 2 / count) ** 0.5)
    kept = (noisy == 0.5).double().mean().item()
    assert kept == pytest.approx(1 - amount, abs=4 * (amount / count / 3) ** 0.5)
    # Independent channels: all three change together with amount ** 3 only.
    together = (noisy != 0.5).all(dim=1).double().mean().item()
    assert together == pytest.approx(amount**3, abs=4 * (amount**3 / count) ** 0.5)
