"""Smooth random displacements, affine maps, and reading images between pixels."""

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.fft import dctn, idctn

Floats = npt.NDArray[np.floating]


def affine_sources(moved: Floats, height: int, width: int) -> tuple[Floats, Floats]:
    """Where each pixel comes from under the affine maps that move three corners of the middle square.

    The corners lie a third of the shorter side from the centre: to its right below, right above, left above.

    Args:
        moved: (B, 3, 2) in pixels, right and down, how far each corner is moved.
        height: Rows.
        width: Columns.

    Returns:
        Column and row, (B, height, width) float32.
    """
    centre, third = np.array([width // 2, height // 2]), max(min(height, width) // 3, 1)
    corners = centre + third * np.array([[1, 1], [1, -1], [-1, -1]])
    targets = np.concatenate((corners + moved, np.ones((len(moved), 3, 1))), axis=2)
    # A map (3, 2) takes (right, down, 1) of a target to its corner.
    maps = np.linalg.solve(targets, np.broadcast_to(corners, (len(moved), 3, 2)))[:, :, :, None, None]
    rows, columns = np.mgrid[:height, :width]
    right, down = (
        (maps[:, 0, axis] * columns + maps[:, 1, axis] * rows + maps[:, 2, axis]).astype(np.float32)
        for axis in (0, 1)
    )
    return right, down


def smooth(noise: Floats, sigma: float) -> Floats:
    """Gaussian filter, cut at three standard deviations, borders mirrored about the edge of the last pixel.

    Such a filter only scales each cosine of the discrete cosine transform, by
    w_0 + 2 sum over r of w_r cos(pi k r / size), so a wide filter costs no more than a narrow one.

    Args:
        noise: (B, N, H, W) float32.
        sigma: Standard deviation in pixels, above 0.

    Returns:
        (B, N, H, W) float32.
    """
    gains = np.multiply.outer(*(_cosine_gains(size, sigma) for size in noise.shape[2:])).astype(np.float32)
    # One image at a time: transforms of several may add in another order.
    return np.stack(
        [idctn(dctn(image, axes=(1, 2), norm="ortho") * gains, axes=(1, 2), norm="ortho") for image in noise]
    )


def _cosine_gains(size: int, sigma: float) -> Floats:
    reach = np.arange(int(3 * sigma + 0.5) + 1)
    weights = np.exp(-0.5 * (reach / sigma) ** 2)
    weights[1:] *= 2
    cosines = np.cos(np.outer(np.arange(size) * (np.pi / size), reach))
    gains: Floats = (cosines * weights).sum(axis=1) / weights.sum()
    return gains


def sample(
    images: torch.Tensor, columns: Floats, rows: Floats, *, mirror_at: Literal["centre", "edge"]
) -> torch.Tensor:
    """Images read at positions between pixels, bilinear.

    Args:
        images: (B, C, H, W) float32.
        columns: (B, H, W) in pixels, 0 the centre of the first.
        rows: (B, H, W).
        mirror_at: Whether positions beyond the image are mirrored about the centre or the outer edge of the
            last pixel.

    Returns:
        (B, C, H, W) float32.
    """
    at_centre = mirror_at == "centre"
    # torch wants -1 and 1 at the centres, or at the outer edges, of the first and last pixel.
    scaled = (
        position * np.float32(2 / max(size - 1, 1)) - np.float32(1)
        if at_centre
        else (position * np.float32(2) + np.float32(1)) / np.float32(size) - np.float32(1)
        for position, size in zip((columns, rows), (images.shape[3], images.shape[2]), strict=True)
    )
    grid = torch.from_numpy(np.stack(tuple(scaled), axis=3)).to(images.device)
    return F.grid_sample(images, grid, "bilinear", "reflection", align_corners=at_centre)
