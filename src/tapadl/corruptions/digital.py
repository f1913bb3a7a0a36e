"""Digital: contrast, elastic transform, pixelation, JPEG compression and saturation."""

from collections.abc import Callable
from io import BytesIO

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from tapadl.corruptions.elastic import affine_sources, sample, smooth
from tapadl.corruptions.filters import mean_over_pixels
from tapadl.corruptions.random import Draws

# From so many on a call for each channel gets them out of a picture faster than taking pixels apart.
_MANY_PIXELS = 2**13


def contrast(images: torch.Tensor, *, factor: float) -> torch.Tensor:
    """Shrink the distance of each value from the mean of its channel: (x - mean) * factor + mean.

    Args:
        images: (B, C, H, W) float32 in 0..1.
        factor: Share of the contrast that is left.

    Returns:
        (B, C, H, W) float32 in 0..1.

    Source: Hendrycks and Dietterich, ICLR 2019, the authors' generator script.
    """
    mean = mean_over_pixels(images)
    return (images - mean) * factor + mean


def elastic_transform(
    images: torch.Tensor, draws: Draws, *, alpha: float, sigma: float, jitter: float
) -> torch.Tensor:
    """A random affine map, then a smooth random displacement of every pixel, both bilinear.

    The affine map moves three corners of the middle square, a third of the shorter side from the centre, by
    up to `jitter` in both directions; beyond the image it mirrors about the last pixel. The displacement is
    uniform noise in -1..1, filtered with a Gaussian (cut at three standard deviations) and times alpha; it
    mirrors about the edge of the last pixel.

    Args:
        images: (B, C, H, W) float32 in 0..1.
        draws: Random numbers of these images: the jitter first, then rightward and downward noise.
        alpha: Displacement in pixels before the filter, which leaves a small part of it.
        sigma: Standard deviation of the filter in pixels.
        jitter: Largest displacement of a corner in pixels.

    Returns:
        (B, C, H, W) float32 in 0..1.

    Source: Hendrycks and Dietterich, ICLR 2019, the authors' generator script.
    """
    height, width = images.shape[2:]
    right, down = affine_sources((draws.uniform(3, 2) * 2.0 - 1) * jitter, height, width)
    images = sample(images, right, down, mirror_at="centre")
    if alpha == 0:
        return images
    noise = draws.uniform(2, height, width) * np.float32(2) - np.float32(1)
    displacement = smooth(noise, sigma) * np.float32(alpha)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    return sample(images, columns + displacement[:, 0], rows + displacement[:, 1], mirror_at="edge")


def pixelate(images: torch.Tensor, *, scale: float) -> torch.Tensor:
    """Shrink to int(side * scale) pixels by box averages and enlarge by repetition, in 8 bits, on the CPU.

    Args:
        images: (B, C, H, W) float32 in 0..1; rounded to 8 bits first.
        scale: Share of the pixels that are left along each side; at least one pixel is.

    Returns:
        (B, C, H, W) uint8 in 0..255.

    Source: Hendrycks and Dietterich, ICLR 2019, the authors' generator script.
    """
    height, width = images.shape[2:]
    coarse = (max(1, int(width * scale)), max(1, int(height * scale)))

    def change(picture: Image.Image) -> Image.Image:
        # The script enlarges with the box filter, which repeats pixels as well, ten times slower.
        small = picture.resize(coarse, Image.Resampling.BOX)
        return small.resize((width, height), Image.Resampling.NEAREST)

    return _as_pictures(images, change)


def jpeg_compression(images: torch.Tensor, *, quality: int) -> torch.Tensor:
    """Encode as JPEG and decode, in 8 bits, on the CPU.

    Colour with Pillow's default chroma subsampling, as published; one channel as a gray JPEG.

    Args:
        images: (B, C, H, W) float32 in 0..1; rounded to 8 bits first.
        quality: Pillow's quality, 1 to 95.

    Returns:
        (B, C, H, W) uint8 in 0..255.

    Source: Hendrycks and Dietterich, ICLR 2019, the authors' generator script.
    """
    return _as_pictures(images, lambda picture: _through_jpeg(picture, quality))


def _through_jpeg(picture: Image.Image, quality: int) -> Image.Image:
    file = BytesIO()
    picture.save(file, "JPEG", quality=quality)
    # What Image.open does in the end; to look through the file first takes as long as to decode a small one.
    return Image.frombytes(picture.mode, picture.size, file.getvalue(), "jpeg", picture.mode, "")


def _as_pictures(images: torch.Tensor, change: Callable[[Image.Image], Image.Image]) -> torch.Tensor:
    """Change images (B, C, H, W) in 0..1 one by one as pictures of 8 bits; (B, C, H, W) uint8."""
    channels, height, width = images.shape[1:]
    mode, layout = ("L", "L") if channels == 1 else ("RGB", "RGBX")
    changed = np.empty(images.shape, dtype=np.uint8)
    for before, after in zip(_as_pixels(images.cpu().numpy()), changed, strict=True):
        picture = change(Image.frombytes(mode, (width, height), before.data, "raw", layout))
        if height * width < _MANY_PIXELS:
            pixels = np.frombuffer(picture.tobytes(), dtype=np.uint8).reshape(height, width, channels)
            after[...] = pixels.transpose(2, 0, 1)
        else:
            for band, plane in zip(mode, after, strict=True):
                plane[...] = np.frombuffer(picture.tobytes("raw", band), dtype=np.uint8).reshape(plane.shape)
    return torch.from_numpy(changed).to(images.device)


def _as_pixels(values: npt.NDArray[np.float32]) -> npt.NDArray[np.int32] | npt.NDArray[np.uint8]:
    """(B, C, H, W) in 0..1 as (B, H, W): bytes of gray, or red, green, blue and a byte that does not count.

    Added to 2 ** 23, a value is rounded, and stands in the lowest bits of the float. To put pixels together
    from those costs a fraction of what it takes to interleave bytes.
    """
    scale, whole = np.float32(255), np.float32(2**23)
    last = values[:, -1] * scale
    last += whole
    pixels = last.view("<i4")
    level = np.empty_like(last)
    for channel in reversed(range(values.shape[1] - 1)):
        np.multiply(values[:, channel], scale, out=level)
        level += whole
        pixels <<= 8
        pixels += level.view("<i4")
    return pixels if values.shape[1] == 3 else pixels.astype(np.uint8)


def saturate(images: torch.Tensor, *, factor: float, offset: float) -> torch.Tensor:
    """Change the saturation of HSV to S * factor + offset, clipped to 0..1; hue and value stay.

    With V the largest and S V the spread of a pixel's channels, and both V and hue fixed, the distance of a
    channel from V is proportional to S. A gray pixel has no hue; as in HSV at large it counts as red, so an
    offset makes it so. An image of one channel has no saturation and stays as it is.

    Args:
        images: (B, C, H, W) float32 in 0..1.
        factor: Of the saturation.
        offset: Added to the saturation.

    Returns:
        (B, C, H, W) float32 in 0..1.

    Source: Hendrycks and Dietterich, ICLR 2019, the authors' generator script.
    """
    if images.shape[1] == 1:
        return images.clone()
    value, low = images.amax(dim=1, keepdim=True), images.amin(dim=1, keepdim=True)
    spread = value - low
    saturation = (torch.where(value > 0, spread / value, 0.0) * factor + offset).clamp_(0, 1)
    red = torch.tensor([0.0, 1.0, 1.0], device=images.device)[:, None, None]
    distance = torch.where(spread > 0, (value - images) / spread, red)
    return value - value * saturation * distance
