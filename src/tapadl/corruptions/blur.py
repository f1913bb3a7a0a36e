"""Blur: defocus, glass, motion, zoom and gaussian blur."""

import math

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import correlate1d

from tapadl.corruptions.filters import clamp_pad, correlate, mirror_pad, mix_rows, transpose
from tapadl.corruptions.random import Draws
from tapadl.corruptions.scatter import scatter

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

# Up to these, in pixels, many small steps over a whole batch are the fastest way.
SMALL_REACH, SMALL_SIDE = 4, 96


def gaussian_blur(images: torch.Tensor, *, sigma: float) -> torch.Tensor:
    """Gaussian filter, cut at four standard deviations, borders continued by their last value.

    Args:
        images: (B, C, H, W) float32 in 0..1.
        sigma: Standard deviation in pixels.

    Returns:
        (B, C, H, W) float32 in 0..1.

    Source: Hendrycks and Dietterich, ICLR 2019, the authors' generator script.
    """
    weights = _gaussian(int(4 * sigma + 0.5), sigma)
    return _filter(_filter(images, 2, weights), 3, weights)


def _gaussian(reach: int, sigma: float) -> Floats:
    """Normalised weights at 0, 1, ..., reach; the other side is the same."""
    weights: Floats = np.exp(-0.5 * (np.arange(reach + 1) / sigma) ** 2)
    weights /= 2 * weights.sum() - weights[0]
    return weights


def _filter(images: torch.Tensor, dim: int, weights: Floats) -> torch.Tensor:
    """Symmetric filter along a dim: weights[0] x[i] + sum over r of weights[r] (x[i - r] + x[i + r])."""
    reach, size = len(weights) - 1, images.shape[dim]
    padded = clamp_pad(images, dim, reach)
    total, pair = images * float(weights[0]), torch.empty_like(images)
    for r in range(1, reach + 1):
        torch.add(padded.narrow(dim, reach - r, size), padded.narrow(dim, reach + r, size), out=pair)
        total.add_(pair.mul_(float(weights[r])))
    return total


def defocus_blur(images: torch.Tensor, *, radius: float, alias_blur: float) -> torch.Tensor:
    """Filter with a disk whose edge is smoothed; borders are mirrored about the last pixel.

    Args:
        images: (B, C, H, W) float32 in 0..1.
        radius: Radius of the disk in pixels.
        alias_blur: Standard deviation in pixels of the Gaussian that smooths its edge.

    Returns:
        (B, C, H, W) float32, not clipped: at radius 8 and 10 the published kernel sums to a little over 1.

    Source: Hendrycks and Dietterich, ICLR 2019, the authors' generator script.
    """
    # Along a row the disk is flat, so the differences of neighbouring weights are zero but for its edge. With
    # window[x] the sum of the 2x + 1 values around a pixel, a row of the disk is a sum over those few steps:
    # sum over |x| <= reach of k[x] v[x] = sum over x >= 0 of (k[x] - k[x + 1]) window[x].
    quadrant = disk_quadrant(radius, alias_blur)
    reach, (height, width) = len(quadrant) - 1, images.shape[2:]
    padded = mirror_pad(mirror_pad(images, 2, reach), 3, reach)
    if reach > SMALL_REACH and min(height, width) > SMALL_SIDE:
        half = np.concatenate((quadrant[:0:-1], quadrant))
        return correlate(padded, np.concatenate((half[:, :0:-1], half), axis=1))
    steps = quadrant - np.pad(quadrant, ((0, 0), (0, 1)))[:, 1:]
    steps[np.abs(steps) < 1e-9 * quadrant.max()] = 0
    windows = [padded.narrow(3, reach, width)]
    for x in range(1, reach + 1):
        pair = padded.narrow(3, reach - x, width) + padded.narrow(3, reach + x, width)
        windows.append(pair.add_(windows[-1]))
    total = torch.zeros_like(images)
    for y, row_steps in enumerate(steps):
        line = torch.zeros_like(windows[0])
        for x in row_steps.nonzero()[0].tolist():
            line.add_(windows[x] * float(row_steps[x]))
        total.add_(line.narrow(2, reach - y, height))
        if y:
            total.add_(line.narrow(2, reach + y, height))
    return total


def disk_quadrant(radius: float, alias_blur: float) -> Floats:
    """Weights k[y, x] of the defocus kernel for y, x >= 0; it is the same in the other three quadrants.

    The smoothing reflects at the edge of its grid as the published one does. Where the disk touches that edge
    (radius 8, and all larger ones) this puts weight back inside, and the kernel sums to 1.01.
    """
    half, smooth = (8, 1) if radius <= 8 else (math.floor(radius), 2)
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    disk = (y**2 + x**2 <= radius**2).astype(np.float64)
    disk /= disk.sum()
    one_sided = _gaussian(smooth, alias_blur)
    weights = np.concatenate((one_sided[:0:-1], one_sided))
    for axis in (0, 1):
        disk = correlate1d(disk, weights, axis=axis, mode="mirror")
    quadrant: Floats = disk[half:, half:]
    used = int(np.flatnonzero(quadrant[0] > 1e-9 * quadrant.max())[-1])
    return quadrant[: used + 1, : used + 1]


def glass_blur(
    images: torch.Tensor, draws: Draws, *, sigma: float, max_delta: float, iterations: int
) -> torch.Tensor:
    """Gaussian filter, 8 bits, pixels copied from near by, Gaussian filter again.

    The published script means to swap pixels, but swaps views of one array, which copies; the published
    images are made of copies, and so are these.

    Args:
        images: (B, C, H, W) float32 in 0..1.
        draws: Random numbers of these images; one for each pixel and iteration.
        sigma: Standard deviation of both filters in pixels.
        max_delta: A pixel is copied from at most this many rows and columns away; rounded, at least 1.
        iterations: How often the pixels are copied.

    Returns:
        (B, C, H, W) float32 in 0..1.

    Source: Hendrycks and Dietterich, ICLR 2019, the authors' generator script.
    """
    batch, channels, height, width = images.shape
    delta = max(1, round(max_delta))
    blurred = gaussian_blur(images, sigma=sigma).mul_(255).floor_().div_(255)
    if min(height, width) > 2 * delta:
        uniform = draws.uniform(iterations, height - 2 * delta, width - 2 * delta)
        sources = torch.from_numpy(scatter(uniform, height, width, delta)).to(images.device)
        sources = sources[:, None].expand(batch, channels, -1)
        blurred = blurred.flatten(2).gather(2, sources).view_as(images)
    return gaussian_blur(blurred, sigma=sigma)


def motion_blur(images: torch.Tensor, draws: Draws, *, radius: float, sigma: float) -> torch.Tensor:
    """Smear each image along its own angle, uniform in -45..45 degrees.

    Args:
        images: (B, C, H, W) float32 in 0..1.
        draws: Random numbers of these images; one each.
        radius: 2 * radius + 1 taps, one pixel apart.
        sigma: Standard deviation in pixels of the half Gaussian that weights them.

    Returns:
        (B, C, H, W) float32 in 0..1.

    Source: Hendrycks and Dietterich, ICLR 2019, the authors' generator script (ImageMagick's motion blur).
    """
    angles = -45 + 90 * draws.uniform().astype(np.float64)
    return smear(images, angles, radius=radius, sigma=sigma)


def smear(images: torch.Tensor, angles: Floats, *, radius: float, sigma: float) -> torch.Tensor:
    """One-sided motion blur of each image along its angle: sum over i of w_i x[h + i sin, w + i cos].

    Weights are a half Gaussian in i, normalised; taps sit on the nearest pixel; borders are continued by
    their last value. The published script drops the taps that lie further away than the image is wide,
    which darkens images of a few pixels; here they read the border like all others.

    Args:
        images: (B, C, H, W) float32.
        angles: (B,) in degrees: where the taps lie, 0 to the right of the pixel, 90 below it.
        radius: 2 * radius + 1 taps, rounded.
        sigma: Standard deviation of the weights in pixels.

    Returns:
        (B, C, H, W) float32.
    """
    steps = np.arange(round(2 * radius) + 1)
    weights = np.exp(-0.5 * (steps / sigma) ** 2)
    weights /= weights.sum()
    # Halves are rounded down, as published.
    downs = np.ceil(np.outer(steps, np.sin(np.deg2rad(angles))) - 0.5).astype(np.int64)
    rights = np.ceil(np.outer(steps, np.cos(np.deg2rad(angles))) - 0.5).astype(np.int64)
    batch, channels, height, width = images.shape
    if min(height, width) > SMALL_SIDE:
        return _smear_each(images, weights, downs.T, rights.T)
    rows = torch.arange(height, device=images.device)[:, None]
    columns = torch.arange(width, device=images.device)
    pixels = images.flatten(2)
    total = torch.zeros_like(pixels)
    for weight, down, right in zip(weights, torch.from_numpy(downs), torch.from_numpy(rights), strict=True):
        source_rows = (rows + down.to(images.device)[:, None, None]).clamp_(0, height - 1)
        source_columns = (columns + right.to(images.device)[:, None, None]).clamp_(0, width - 1)
        source = (source_rows * width + source_columns).flatten(1)[:, None].expand(batch, channels, -1)
        total.add_(pixels.gather(2, source).mul_(float(weight)))
    return total.view_as(images)


def _smear_each(images: torch.Tensor, weights: Floats, downs: Indices, rights: Indices) -> torch.Tensor:
    """The sum of `smear`, an image at a time: for large images, slices of a padded one are faster to read."""
    height, width = images.shape[2:]
    reach = len(weights) - 1
    total, term = torch.zeros_like(images), torch.empty_like(images[0])
    for image, sums, down, right in zip(images, total, downs.tolist(), rights.tolist(), strict=True):
        padded = clamp_pad(clamp_pad(image[None], 2, reach), 3, reach)[0]
        for weight, y, x in zip(weights.tolist(), down, right, strict=True):
            source = padded[:, reach + y : reach + y + height, reach + x : reach + x + width]
            sums.add_(torch.mul(source, weight, out=term))
    return total


def zoom_blur(images: torch.Tensor, *, factors: tuple[float, ...]) -> torch.Tensor:
    """Mean of the image and of its zooms about the centre by each factor.

    Args:
        images: (B, C, H, W) float32 in 0..1.
        factors: Zoom factors, at least 1; 1 counts the image a second time, as published.

    Returns:
        (B, C, H, W) float32 in 0..1.

    Source: Hendrycks and Dietterich, ICLR 2019, the authors' generator script.
    """
    height, width = images.shape[2:]
    total = images.mT.clone(memory_format=torch.contiguous_format)
    for factor in factors:
        zoomed = mix_rows(images, *_centre_rows(height, factor))
        total.add_(mix_rows(transpose(zoomed), *_centre_rows(width, factor)))
    return transpose(total.div_(len(factors) + 1))


def _centre_rows(size: int, factor: float) -> tuple[Indices, Floats]:
    """The two source rows of each row of a centre zoom, and their weights."""
    rows, weights = zoom_rows(size, factor)
    return rows + (size - math.ceil(size / factor)) // 2, weights


def zoom_rows(size: int, factor: float) -> tuple[Indices, Floats]:
    """The two source rows, out of the ceil(size / factor) that are zoomed, of each row, and their weights.

    The rows are spread so that their first and last fall on the first and last of round(rows * factor)
    positions (scipy's `zoom` of order 1), of which the first `size` are kept.
    """
    cropped = math.ceil(size / factor)
    spread = round(cropped * factor)
    position = np.arange(size) * ((cropped - 1) / max(spread - 1, 1))
    lower = np.clip(np.floor(position).astype(np.int64), 0, max(cropped - 2, 0))
    upper = np.minimum(lower + 1, cropped - 1)
    share = position - lower
    return np.stack((lower, upper), axis=1), np.stack((1 - share, share), axis=1)
