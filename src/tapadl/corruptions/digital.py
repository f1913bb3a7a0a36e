"""Digital: contrast, elastic transform, pixelation, JPEG compression and saturation."""

from functools import cache
from io import BytesIO

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from tapadl.corruptions.elastic import affine_sources, sample, smooth
from tapadl.corruptions.filters import mean_over_pixels, mix_rows, transpose
from tapadl.corruptions.random import Draws


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
    """Shrink to int(side * scale) pixels by box averages and enlarge again by repetition.

    The published script works on 8-bit images and rounds after each direction; this one does not round.

    Args:
        images: (B, C, H, W) float32 in 0..1.
        scale: Share of the pixels that are left along each side; at least one pixel is.

    Returns:
        (B, C, H, W) float32 in 0..1.

    Source: Hendrycks and Dietterich, ICLR 2019, the authors' generator script.
    """
    height, width = images.shape[2:]
    coarse_height, coarse_width = max(1, int(height * scale)), max(1, int(width * scale))
    coarse = mix_rows(transpose(images), *_box_rows(width, coarse_width))
    coarse = mix_rows(transpose(coarse), *_box_rows(height, coarse_height))
    columns, rows = (
        torch.from_numpy(_box_rows(few, many)[0][:, 0]).to(images.device)
        for few, many in ((coarse_width, width), (coarse_height, height))
    )
    return transpose(transpose(coarse).index_select(2, columns)).index_select(2, rows)


@cache
def _box_rows(size: int, new_size: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The source rows that Pillow's box filter averages into each of `new_size` rows, and their weights.

    It weighs whole rows: those whose centre lies within half a box of the new row's centre, equally.
    """
    ratio = size / new_size
    box = max(ratio, 1.0)
    centres = (np.arange(new_size) + 0.5) * ratio
    first = np.maximum((centres - 0.5 * box + 0.5).astype(np.int64), 0)
    taps = first[:, None] + np.arange(int(np.ceil(box)) + 1)
    offset = (taps - centres[:, None] + 0.5) * (1 / box)
    inside = (offset > -0.5) & (offset <= 0.5) & (taps < size)
    used = inside.any(axis=0)
    return np.minimum(taps, size - 1)[:, used], (inside / inside.sum(axis=1, keepdims=True))[:, used]


def jpeg_compression(images: torch.Tensor, *, quality: int) -> torch.Tensor:
    """Encode as JPEG and decode, in 8 bits, on the CPU.

    Colour with Pillow's default chroma subsampling, as published; one channel as a gray JPEG.

    Args:
        images: (B, C, H, W) float32 in 0..1; rounded to 8 bits first.
        quality: Pillow's quality, 1 to 95.

    Returns:
        (B, C, H, W) float32 in 0..1, multiples of 1/255.

    Source: Hendrycks and Dietterich, ICLR 2019, the authors' generator script.
    """
    levels = (images * 255).round_().to(torch.uint8).cpu().numpy()
    batch, channels, height, width = levels.shape
    decoded = np.empty((batch, height, width, channels), dtype=np.uint8)
    for before, after in zip(levels, decoded, strict=True):
        after[...] = _through_jpeg(before, quality).reshape(after.shape)
    pixels = torch.from_numpy(decoded).to(images.device).permute(0, 3, 1, 2)
    return torch.empty_like(images).copy_(pixels).div_(255)


def _through_jpeg(image: npt.NDArray[np.uint8], quality: int) -> npt.NDArray[np.uint8]:
    """Encode a (C, H, W) image and decode it to (H, W, C), or (H, W) for one channel."""
    # Pillow merges channels faster than numpy or torch interleave them.
    channels, buffer = [Image.fromarray(channel) for channel in image], BytesIO()
    picture = channels[0] if len(channels) == 1 else Image.merge("RGB", channels)
    picture.save(buffer, "JPEG", quality=quality)
    with Image.open(buffer, formats=("JPEG",)) as decoded:
        return np.asarray(decoded)


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
