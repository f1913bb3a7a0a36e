"""Linear filters as sums in a fixed order.

Convolution and matrix routines choose their algorithm, and with it the last bits, by the size of the batch.
Here every output is the same few products added in the same order, one elementwise operation at a time, so
an image's result does not depend on the images beside it.
"""

import numpy as np
import numpy.typing as npt
import torch
from scipy.fft import irfft2, next_fast_len, rfft2

Weights = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


def mix_rows(images: torch.Tensor, indices: Indices, weights: Weights) -> torch.Tensor:
    """Rows as weighted sums of rows: out[r] = sum over k of weights[r, k] * images[indices[r, k]].

    Args:
        images: (B, C, H, W) float32.
        indices: (rows, K) row numbers, 0 to H - 1.
        weights: (rows, K).

    Returns:
        (B, C, rows, W) float32.

    Example:
        >>> images = torch.tensor([1.0, 3.0]).reshape(1, 1, 2, 1)
        >>> mix_rows(images, np.array([[0, 1]]), np.array([[0.5, 0.5]])).flatten()
        tensor([2.])
    """
    rows = torch.from_numpy(np.ascontiguousarray(indices.T)).to(images.device)
    factors = torch.from_numpy(weights.astype(np.float32)).to(images.device)[..., None]
    total = images.index_select(2, rows[0]).mul_(factors[:, 0])
    # One buffer for all terms: fresh memory costs more than the arithmetic.
    term = torch.empty_like(total)
    for k in range(1, len(rows)):
        torch.index_select(images, 2, rows[k], out=term)
        total.add_(term.mul_(factors[:, k]))
    return total


def transpose(images: torch.Tensor) -> torch.Tensor:
    """Rows and columns exchanged, stored row by row: picking rows is several times faster than columns.

    Of a single row or column it is a view.
    """
    return images.mT.contiguous()


def correlate(padded: torch.Tensor, kernel: Weights) -> torch.Tensor:
    """Filter with a large kernel through the Fourier transform, on the CPU, one image at a time.

    Args:
        padded: (B, C, H + h - 1, W + w - 1) float32.
        kernel: (h, w).

    Returns:
        (B, C, H, W) float32: out[y, x] = sum over i, j of kernel[i, j] * padded[y + i, x + j].
    """
    size = tuple(next_fast_len(side, real=True) for side in padded.shape[2:])
    height, width = (side - reach + 1 for side, reach in zip(padded.shape[2:], kernel.shape, strict=True))
    gains = rfft2(kernel.astype(np.float32), size).conj()
    filtered = [
        irfft2(rfft2(image, size) * gains, size)[:, :height, :width] for image in padded.cpu().numpy()
    ]
    return torch.from_numpy(np.stack(filtered)).to(padded.device)


def clamp_pad(images: torch.Tensor, dim: int, reach: int) -> torch.Tensor:
    """Continue rows (dim 2) or columns (dim 3) on both sides by `reach` copies of the outermost."""
    size = images.shape[dim]
    positions = torch.arange(-reach, size + reach, device=images.device)
    return images.index_select(dim, positions.clamp_(0, size - 1))


def mirror_pad(images: torch.Tensor, dim: int, reach: int) -> torch.Tensor:
    """Continue rows (dim 2) or columns (dim 3) by reflection about the outermost, which is not repeated.

    Unlike torch's padding it goes on reflecting where `reach` is larger than the image.

    Example:
        >>> mirror_pad(torch.tensor([1.0, 2.0, 3.0]).reshape(1, 1, 3, 1), 2, 3).flatten()
        tensor([2., 3., 2., 1., 2., 3., 2., 1., 2.])
    """
    size = images.shape[dim]
    period = max(2 * (size - 1), 1)
    positions = torch.arange(-reach, size + reach, device=images.device).remainder_(period)
    return images.index_select(dim, torch.minimum(positions, period - positions) if size > 1 else positions)


def mean_over_pixels(images: torch.Tensor) -> torch.Tensor:
    """Mean of each channel of each image, (B, C, 1, 1).

    Halves are added onto each other until one value is left: a fixed order, and an error that grows with the
    logarithm of the number of pixels only.
    """
    values = images.flatten(2)
    count = values.shape[2]
    while values.shape[2] > 1:
        half = values.shape[2] // 2
        odd = values[:, :, 2 * half :]
        values = torch.cat((values[:, :, :half] + values[:, :, half : 2 * half], odd), dim=2)
    return values[..., None] / count
