"""Translate, rotate, tilt, scale and shear: where each pixel of a frame comes from."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from tapadl.corruptions.perturbations.sequence import FRAMES

Matrix = npt.NDArray[np.float64]

MIDDLE = FRAMES // 2


def translate(images: torch.Tensor, size: tuple[int, int], *, step: float) -> Iterator[torch.Tensor]:
    """Slide to the right by `step` pixels a frame; the middle frame is the image.

    Args:
        images: (B, C, H, W) float32 in 0..1.
        size: Rows and columns of the frames, cut from the middle.
        step: Pixels a frame.

    Yields:
        (B, C, *size) float32 in 0..1, 31 times.
    """
    for frame in range(FRAMES):
        yield warp(images, _shift((frame - MIDDLE) * step, 0), size)


def rotate(images: torch.Tensor, size: tuple[int, int], *, step: float) -> Iterator[torch.Tensor]:
    """Turn clockwise about the centre by `step` degrees a frame; the middle frame is the image.

    Arguments and frames as in `translate`.
    """
    for frame in range(FRAMES):
        angle = np.deg2rad((frame - MIDDLE) * step)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        yield warp(images, _about_centre(images, turn), size)


def tilt(images: torch.Tensor, size: tuple[int, int], *, step: float) -> Iterator[torch.Tensor]:
    """Turn the picture in space by `step` degrees a frame, about its horizontal and vertical axis at once.

    Arguments and frames as in `translate`; in the middle frame the image stands straight, at
    diagonal / (diagonal + 1) of its size, as published.
    """
    for frame in range(FRAMES):
        yield warp(images, _tilted(images, np.deg2rad((frame - MIDDLE) * step)), size)


def scale(
    images: torch.Tensor, size: tuple[int, int], *, first: float, step: float
) -> Iterator[torch.Tensor]:
    """Scale about the centre, by `first` and by `step` more each frame.

    Arguments and frames as in `translate`.
    """
    for frame in range(FRAMES):
        yield warp(images, _about_centre(images, np.eye(2) * (first + step * frame)), size)


def shear(images: torch.Tensor, size: tuple[int, int], *, step: float) -> Iterator[torch.Tensor]:
    """Lean the vertical axis by `step` degrees more each frame; the middle frame is the image.

    The axis turns and keeps its length, as torchvision's `affine` did when ImageNet-P was made, so rows come
    closer by the cosine. Arguments and frames as in `translate`.
    """
    for frame in range(FRAMES):
        angle = np.deg2rad((frame - MIDDLE) * step)
        lean = np.array([[1, -np.sin(angle)], [0, np.cos(angle)]])
        yield warp(images, _about_centre(images, lean), size)


def centre_zoom(images: torch.Tensor, size: tuple[int, int], factor: float) -> torch.Tensor:
    """The image enlarged about its centre, and the middle of that, (B, C, *size)."""
    return warp(images, _about_centre(images, np.eye(2) * factor), size)


def cut_middle(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The middle of the images, (B, C, *size), as torchvision cuts it."""
    top, left = _corner(images, size)
    return images[:, :, top : top + size[0], left : left + size[1]]


def _corner(images: torch.Tensor, size: tuple[int, int]) -> tuple[int, int]:
    height, width = images.shape[2:]
    return round((height - size[0]) / 2), round((width - size[1]) / 2)


def warp(images: torch.Tensor, matrix: Matrix, size: tuple[int, int]) -> torch.Tensor:
    """Move what is at p to matrix @ p, and cut out the middle: bilinear, black where nothing comes from.

    Coordinates are in pixels from the upper left corner of the image, so that pixel (0, 0) has its centre at
    (0.5, 0.5). They are the same for all images and worked out in double precision on the CPU: a shift by
    whole pixels is exact, and every device and batch gives the same.

    Args:
        images: (B, C, H, W) float32.
        matrix: (3, 3), on (x, y, 1), invertible.
        size: Rows and columns that are cut from the middle.

    Returns:
        (B, C, *size) float32.

    Example:
        >>> images = torch.tensor([1.0, 2.0, 3.0]).reshape(1, 1, 1, 3)
        >>> warp(images, _shift(1, 0), (1, 3)).flatten()
        tensor([0., 1., 2.])
    """
    batch, channels, height, width = images.shape
    top, left = _corner(images, size)
    y, x = np.mgrid[top : top + size[0], left : left + size[1]].reshape(2, -1) + 0.5
    source = np.linalg.inv(matrix) @ np.stack((x, y, np.ones_like(x)))
    columns, rows = source[:2] / source[2]
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    left_columns, right_share = _between(columns)
    upper_rows, lower_share = _between(rows)
    pixels = images.flatten(2)
    total = images.new_zeros(batch, channels, size[0] * size[1])
    for down, row_share in ((0, 1 - lower_share), (1, lower_share)):
        for right, column_share in ((0, 1 - right_share), (1, right_share)):
            row = (upper_rows + down).clip(0, height - 1)
            column = (left_columns + right).clip(0, width - 1)
            positions = torch.from_numpy(row * width + column).to(images.device)
            weights = torch.from_numpy((row_share * column_share * inside).astype(np.float32))
            total.add_(pixels.index_select(2, positions).mul_(weights.to(images.device)))
    return total.view(batch, channels, *size)


def _between(positions: Matrix) -> tuple[npt.NDArray[np.int64], Matrix]:
    """The pixel whose centre lies before each position, and the share of the one after it."""
    # a whole pixel is a whole pixel, whatever the inverse has left in the last bits
    centres = np.round(positions - 0.5, 9)
    before = np.floor(centres)
    return np.clip(before, -1e9, 1e9).astype(np.int64), centres - before


def _shift(right: float, down: float) -> Matrix:
    return np.array([[1, 0, right], [0, 1, down], [0, 0, 1]], dtype=np.float64)


def _about_centre(images: torch.Tensor, linear: Matrix) -> Matrix:
    """A linear map of the plane, (2, 2), or of (x, y, 1), (3, 3), with the centre of the image as origin."""
    matrix = np.eye(3)
    matrix[: len(linear), : len(linear)] = linear
    height, width = images.shape[2:]
    shifted: Matrix = _shift(width / 2, height / 2) @ matrix @ _shift(-width / 2, -height / 2)
    return shifted


def _tilted(images: torch.Tensor, angle: float) -> Matrix:
    """The picture as a plane before a pinhole camera, turned about both of its axes.

    The plane lies at depth 1: it holds the points (x, y, 1), so that turning them is a matrix on homogeneous
    coordinates. Then it is moved away by the focal length f, the diagonal of the image: (x, y, z + f), and
    projected to f x / z, f y / z.
    """
    sin, cos = np.sin(angle), np.cos(angle)
    about_vertical = np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])
    about_horizontal = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    focal_length = np.hypot(*images.shape[2:])
    away = np.diag([0, 0, focal_length])
    projection = np.diag([focal_length, focal_length, 1])
    return _about_centre(images, projection @ (about_horizontal @ about_vertical + away))
