"""Frames in which the picture stays where it is: noise, blur and weather."""

from collections.abc import Iterator

import numpy as np
import torch

from tapadl.corruptions import blur, noise, weather
from tapadl.corruptions.perturbations.geometry import MIDDLE, centre_zoom
from tapadl.corruptions.perturbations.sequence import FRAMES
from tapadl.corruptions.random import Draws

Frames = Iterator[torch.Tensor]


def gaussian_noise(images: torch.Tensor, draws: Draws, *, sigma: float) -> Frames:
    """The image, then the image with fresh normal noise thirty times.

    Args:
        images: (B, C, H, W) float32 in 0..1.
        draws: Random numbers of these images.
        sigma: Standard deviation, in units of the 0..1 range.

    Yields:
        (B, C, H, W) float32, not clipped, 31 times.
    """
    yield images
    for _ in range(1, FRAMES):
        yield noise.gaussian_noise(images, draws, sigma=sigma)


def shot_noise(images: torch.Tensor, draws: Draws, *, photons: float) -> Frames:
    """The image, then fresh Poisson counts of its photons; frames as in `gaussian_noise`."""
    yield images
    for _ in range(1, FRAMES):
        yield noise.shot_noise(images, draws, photons=photons)


def speckle_noise(images: torch.Tensor, draws: Draws, *, sigma: float) -> Frames:
    """The image, then fresh noise that grows with the value; frames as in `gaussian_noise`."""
    yield images
    for _ in range(1, FRAMES):
        yield noise.speckle_noise(images, draws, sigma=sigma)


def motion_blur(images: torch.Tensor, *, radius: float, sigma: float, step: float) -> Frames:
    """Motion blur whose direction turns by `step` degrees a frame and ends at 0."""
    for frame in range(FRAMES):
        angles = np.full(len(images), (frame - FRAMES + 1) * step, dtype=np.float64)
        yield blur.smear(images, angles, radius=radius, sigma=sigma)


def zoom_blur(images: torch.Tensor, size: tuple[int, int], *, step: float) -> Frames:
    """The mean of the image and its centre zooms by 1 + step, 1 + 2 step, ..., one more each frame.

    Args:
        images: (B, C, H, W) float32 in 0..1.
        size: Rows and columns of the frames, cut from the middle.
        step: Growth of the zoom a frame.

    Yields:
        (B, C, *size) float32, 31 times; the first is the image.
    """
    total = centre_zoom(images, size, 1)
    yield total
    for frame in range(1, FRAMES):
        total = total + centre_zoom(images, size, 1 + step * frame)
        yield total / (frame + 1)


def snow(
    images: torch.Tensor, draws: Draws, *, std: float, zoom: float, radius: float, sigma: float
) -> Frames:
    """Snow whose flakes stay and whose direction turns by 4 degrees a frame, from -150 to -30 degrees."""
    flakes = weather.snowflakes(images, draws, mean=0.05, std=std, zoom=zoom, threshold=0.5)
    for frame in range(FRAMES):
        angles = np.full(len(images), 4 * frame - 150, dtype=np.float64)
        yield weather.snow_on(images, flakes, angles, radius=radius, sigma=sigma, image_weight=0.85)


def brightness(images: torch.Tensor, *, step: float) -> Frames:
    """From darker to brighter by `step` a frame; the middle frame is the image."""
    for frame in range(FRAMES):
        yield weather.brightness(images, added_value=(frame - MIDDLE) * step)


def gaussian_blur(images: torch.Tensor, *, first: float, step: float) -> Frames:
    """A Gaussian filter of standard deviation `first`, and `step` more each frame."""
    for frame in range(FRAMES):
        yield blur.gaussian_blur(images, sigma=first + step * frame)


def spatter(
    images: torch.Tensor,
    draws: Draws,
    *,
    mean: float,
    std: float,
    blur_sigma: float,
    threshold: float,
    drip: tuple[float, ...],
) -> Frames:
    """Water that runs down: from frame to frame the liquid of a row spreads by `drip`.

    Args:
        images: (B, C, H, W) float32 in 0..1.
        draws: Random numbers of these images.
        mean: Of the noise the liquid is made of.
        std: Of that noise.
        blur_sigma: Standard deviation of its filter in pixels.
        threshold: Above it there is liquid, in the first frame.
        drip: Shares of a row's liquid that are one row above it, in it, and below it a frame later; of two
            shares, in it and below it.

    Yields:
        (B, C, H, W) float32, not clipped, 31 times.
    """
    layer = draws.normal(1, *images.shape[2:]) * np.float32(std) + np.float32(mean)
    liquid = blur.gaussian_blur(torch.from_numpy(layer).to(images.device), sigma=blur_sigma)
    liquid = torch.where(liquid < threshold, 0.0, liquid)
    for _ in range(FRAMES):
        yield weather.water_on(images, liquid, strength=0.6)
        liquid = _run_down(liquid, drip)


def _run_down(liquid: torch.Tensor, drip: tuple[float, ...]) -> torch.Tensor:
    """Convolve the columns of (B, 1, H, W) with `drip`, nothing coming in from outside."""
    height, ahead = liquid.shape[2], (len(drip) - 1) // 2
    padded = torch.nn.functional.pad(liquid, (0, 0, len(drip) - 1 - ahead, ahead))
    total = torch.zeros_like(liquid)
    for number, share in enumerate(drip):
        total.add_(padded.narrow(2, len(drip) - 1 - number, height) * share)
    return total
