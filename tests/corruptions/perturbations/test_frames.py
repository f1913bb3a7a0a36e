import colorsys
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torchvision.transforms import functional as F
from torchvision.transforms import v2

from tapadl.corruptions.perturbations import perturb
from tapadl.corruptions.perturbations.frames import _run_down


def frames_of(images, perturbation, **arguments):
    return perturb(images, perturbation, seed=0, indices=torch.tensor([0]), image_size=224, **arguments)[0]


@pytest.mark.parametrize(
    ("perturbation", "difficulty", "spread"),
    [
        ("gaussian_noise", 1, 0.03),
        ("gaussian_noise", 3, 0.08),
        ("shot_noise", 1, math.sqrt(0.4 / 300)),
        ("shot_noise", 2, math.sqrt(0.4 / 120)),
        ("speckle_noise", 1, 0.4 * 0.05),
        ("speckle_noise", 3, 0.4 * 0.15),
    ],
)
def test_a_noise_has_its_spread_and_each_frame_draws_afresh(perturbation, difficulty, spread):
    image = torch.full((1, 3, 64, 64), 0.4)
    frames = frames_of(image, perturbation, difficulty=difficulty)
    assert torch.equal(frames[0], image[0])
    noise = (frames[1:] - image[0]).flatten(1)
    # 30 frames of 12,288 values: the spread is known to 0.12 %, the mean to spread / 600
    assert noise.std().item() == pytest.approx(spread, rel=0.01)
    assert abs(noise.mean().item()) < spread / 100
    correlation = torch.corrcoef(noise) - torch.eye(30)
    assert correlation.abs().max() < 5 / math.sqrt(12288)


def test_motion_blur_turns_from_120_degrees_to_0():
    dot = torch.zeros(1, 1, 65, 65)
    dot[0, 0, 32, 32] = 1
    frames = frames_of(dot, "motion_blur")[:, 0]
    offset = torch.arange(65.0) - 32
    right = (frames * offset).sum(dim=(1, 2))
    down = (frames * offset[:, None]).sum(dim=(1, 2))
    # a dot shows at the pixels that read it: opposite to where they look
    angles = torch.rad2deg(torch.atan2(-down, -right))
    expected = torch.arange(31.0) * 4 - 120
    # taps lie on whole pixels, so a direction is right to a few degrees and on the average
    assert (angles - expected).abs().max() < 7
    assert (angles - expected).mean().abs() < 1
    assert torch.allclose(frames.sum(dim=(1, 2)), torch.ones(31), atol=1e-5)


def test_zoom_blur_takes_one_more_zoom_into_the_mean_each_frame(pictures):
    images = pictures(1, 80, 80, 1)
    frames = frames_of(images, "zoom_blur", crop_size=70)
    assert torch.equal(frames[0], F.center_crop(images[0], [70]))
    image = Image.fromarray(images[0, 0].numpy())
    for number in (1, 14, 30):
        added = frames[number] * (number + 1) - frames[number - 1] * number
        zoomed = F.affine(image, 0, (0, 0), 1 + 0.004 * number, 0, v2.InterpolationMode.BILINEAR)
        expected = v2.functional.pil_to_tensor(F.center_crop(zoomed, 70))
        assert (added - expected).abs().max() < 1e-4


def test_brightness_adds_to_the_value_of_hsv(pictures):
    images = pictures(1, 12, 12)
    frames = frames_of(images, "brightness")
    assert (frames[15] - images[0]).abs().max() < 1e-6
    for number in (0, 8, 30):
        for row, column in ((0, 0), (5, 7), (11, 2)):
            hue, saturation, value = colorsys.rgb_to_hsv(*images[0, :, row, column].tolist())
            value = min(max(value + (number - 15) * 0.02, 0), 1)
            expected = torch.tensor(colorsys.hsv_to_rgb(hue, saturation, value))
            assert torch.allclose(frames[number, :, row, column], expected, atol=1e-5)


def test_snow_keeps_its_flakes_and_its_amount_while_it_turns():
    frames = frames_of(torch.zeros(1, 3, 128, 128), "snow")
    # black is whitened to 0.15 * 0.5
    assert frames.min().item() == pytest.approx(0.075, abs=1e-6)
    means = frames.mean(dim=(1, 2, 3)) - 0.075
    assert means.min() > 0.9 * means.max()
    assert means.max() > 0.01
    # turned by 180 degrees and added: every frame is its own half turn
    assert torch.allclose(frames, frames.flip((2, 3)), atol=1e-6)


@pytest.mark.parametrize("frame", [0, 13, 30])
def test_gaussian_blur_widens_by_the_same_step(pictures, frame):
    images = pictures(1, 40, 44)
    expected = gaussian_filter(
        images[0].double().numpy(), sigma=(0, 0.25 + 0.035 * frame, 0.25 + 0.035 * frame), mode="nearest"
    )
    assert np.abs(frames_of(images, "gaussian_blur")[frame].numpy() - expected).max() < 1e-6


def test_spatter_adds_pale_water_that_runs_down():
    frames = frames_of(torch.zeros(1, 3, 96, 96), "spatter")
    wet = frames.amax(dim=1)
    assert (wet[0] > 0).any()
    assert (wet[0] == 0).float().mean() > 0.2
    assert frames.max().item() == pytest.approx(0.6 * 238 / 255, abs=1e-5)
    ratio = frames[:, 0][wet > 0.01] / wet[wet > 0.01]
    assert torch.allclose(ratio, torch.full_like(ratio, 175 / 238), atol=1e-4)
    # the last frame is more like the first one moved down than moved up
    rows = wet.mean(dim=2)
    down, up = (torch.corrcoef(torch.stack((rows[1][8:-8], rows[0].roll(by)[8:-8])))[0, 1] for by in (2, -2))
    assert down > up


@pytest.mark.parametrize("drip", [(0.05, 0.1, 0.15, 0.7), (0.2, 0.8)])
def test_liquid_runs_down_as_numpy_convolves_columns(drip):
    liquid = torch.rand(2, 1, 17, 5)
    expected = np.apply_along_axis(np.convolve, 2, liquid.double().numpy(), drip, mode="same")
    assert np.abs(_run_down(liquid, drip).numpy() - expected).max() < 1e-6
