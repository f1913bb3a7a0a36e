"""Digital: contrast, pixelation and JPEG compression."""

from io import BytesIO

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from tapadl.corruptions.filters import mean_over_pixels, mix_rows, transpose


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
    coarse_columns = mix_rows(transpose(images), *_box_rows(width, coarse_width))
    columns = mix_rows(coarse_columns, *_box_rows(coarse_width, width))
    coarse = mix_rows(transpose(columns), *_box_rows(height, coarse_height))
    return mix_rows(coarse, *_box_rows(coarse_height, height))


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
    return np.minimum(taps, size - 1), inside / inside.sum(axis=1, keepdims=True)


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
    pixels = (images * 255).round_().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    decoded = np.stack([_through_jpeg(image, quality) for image in pixels])
    return torch.from_numpy(decoded).to(images.device).permute(0, 3, 1, 2).float().contiguous() / 255


def _through_jpeg(image: npt.NDArray[np.uint8], quality: int) -> npt.NDArray[np.uint8]:
    """Encode and decode one (H, W, C) image."""
    buffer = BytesIO()
    # Pillow wants a gray image without its channel.
    Image.fromarray(image if image.shape[2] == 3 else image[..., 0]).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as decoded:
        return np.asarray(decoded).reshape(image.shape)
