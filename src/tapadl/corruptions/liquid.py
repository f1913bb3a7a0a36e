"""The relief of water on a lens: droplets from the edges of a liquid, in the published 8-bit steps.

The published script calls OpenCV step by step; each function here is one such step, batched, on integers.
"""

from typing import TypeVar

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Number = TypeVar("Number", np.float32, np.int16)

FARTHEST = 20
LOW, HIGH = 50, 150


def wetness(levels: Pixels) -> Floats:
    """How much water each pixel shows, 0..1: the liquid times a relief that follows its edges.

    The relief is the distance to the nearest edge, up to 20 pixels, box filtered, equalised, embossed and box
    filtered. OpenCV takes the distance along chamfer moves, within 2 % of the Euclidean one taken here.

    Args:
        levels: (B, H, W) liquid, 0 where there is none.

    Returns:
        (B, H, W), the maximum of each image 1, or all 0 where there is no liquid.
    """
    distance = box_filter(distance_to(canny(levels)))
    relief = emboss(equalize(distance.astype(np.uint8)))
    smooth = np.rint(box_filter(relief.astype(np.float32)))
    water = levels * smooth
    highest = water.max(axis=(1, 2), keepdims=True)
    share: Floats = np.divide(water, highest, out=np.zeros_like(water), where=highest > 0)
    return share


def canny(levels: Pixels) -> Mask:
    """Edges by Canny's method: Sobel gradients in the sum norm, thresholds 50 and 150.

    An edge is a pixel steeper than 150, or than 50 where a chain of such pixels leads to a steeper one, that
    is a maximum among its two neighbours along the gradient, whose direction is rounded to 45 degrees.

    Args:
        levels: (B, H, W).

    Returns:
        (B, H, W).
    """
    padded = np.pad(levels.astype(np.int32), ((0, 0), (1, 1), (1, 1)), mode="edge")
    down_sum = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    right_sum = padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]
    right = down_sum[:, :, 2:] - down_sum[:, :, :-2]
    down = right_sum[:, 2:] - right_sum[:, :-2]
    steep = _local_maxima(right, down)
    edges = steep > HIGH
    weak = (steep > LOW) & ~edges
    while True:
        joined = weak & _grown(edges)
        if not joined.any():
            return edges
        edges |= joined
        weak &= ~joined


def _local_maxima(right: Integers, down: Integers) -> Integers:
    """Steepness |right| + |down| where it is a maximum along the gradient, else 0."""
    x, y = np.abs(right), np.abs(down)
    steep = x + y
    around = np.pad(steep, ((0, 0), (1, 1), (1, 1)))

    def neighbour(rows: int, columns: int) -> Integers:
        height, width = steep.shape[1:]
        return around[:, 1 + rows : 1 + rows + height, 1 + columns : 1 + columns + width]

    # tan 22.5 degrees, in 1 / 2**15; tan 67.5 is 2 more.
    low_y, y = x * 13573, y << 15
    horizontal, vertical = y < low_y, y > low_y + (x << 16)
    falling = (right ^ down) < 0
    before = np.where(falling, neighbour(-1, 1), neighbour(-1, -1))
    after = np.where(falling, neighbour(1, -1), neighbour(1, 1))
    highest = (steep > before) & (steep > after)
    # Along rows and columns the first of two equals wins.
    highest = np.where(vertical, (steep > neighbour(-1, 0)) & (steep >= neighbour(1, 0)), highest)
    highest = np.where(horizontal, (steep > neighbour(0, -1)) & (steep >= neighbour(0, 1)), highest)
    return np.where(highest, steep, 0)


def _grown(mask: Mask) -> Mask:
    """The mask and its eight neighbours."""
    padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
    rows = padded[:, :-2] | padded[:, 1:-1] | padded[:, 2:]
    return rows[:, :, :-2] | rows[:, :, 1:-1] | rows[:, :, 2:]


def distance_to(edges: Mask) -> Floats:
    """Euclidean distance to the nearest edge pixel, at most 20.

    Args:
        edges: (B, H, W).

    Returns:
        (B, H, W).
    """
    height, width = edges.shape[1:]
    columns = np.arange(width, dtype=np.int16)
    before = np.maximum.accumulate(np.where(edges, columns, np.int16(-FARTHEST - 1)), axis=2)
    after = np.where(edges, columns, np.int16(width + FARTHEST))[:, :, ::-1]
    after = np.minimum.accumulate(after, axis=2)[:, :, ::-1]
    squares = np.minimum(np.minimum(columns - before, after - columns), FARTHEST) ** 2
    nearest = squares.copy()
    for rows in range(1, min(FARTHEST, height)):
        candidates = squares + np.int16(rows * rows)
        np.minimum(nearest[:, rows:], candidates[:, :-rows], out=nearest[:, rows:])
        np.minimum(nearest[:, :-rows], candidates[:, rows:], out=nearest[:, :-rows])
    distance: Floats = np.sqrt(nearest, dtype=np.float32)
    return distance


def box_filter(values: Floats) -> Floats:
    """Mean of 3 x 3 pixels, mirrored about the last.

    Args:
        values: (B, H, W).

    Returns:
        (B, H, W).
    """
    padded = _mirrored(values)
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    means: Floats = (rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]) / np.float32(9)
    return means


def _mirrored(values: npt.NDArray[Number]) -> npt.NDArray[Number]:
    rows, columns = (
        np.pad(np.arange(size), 1, mode="reflect") if size > 1 else np.zeros(3, dtype=np.int64)
        for size in values.shape[1:]
    )
    return values[:, rows][:, :, columns]


def equalize(values: Pixels) -> Pixels:
    """Histogram equalisation of each image: its lowest value becomes 0, the others their rank, up to 255.

    Args:
        values: (B, H, W).

    Returns:
        (B, H, W); an image of one value stays.
    """
    equalized = values.copy()
    for image in equalized:
        counts = np.bincount(image.ravel(), minlength=256)
        lowest = int(counts.nonzero()[0][0])
        others = image.size - counts[lowest]
        if others:
            above = np.maximum(np.cumsum(counts) - counts[lowest], 0).astype(np.float32)
            image[...] = np.rint(above * (np.float32(255) / np.float32(others))).astype(np.uint8)[image]
    return equalized


def emboss(values: Pixels) -> Pixels:
    """Filter that lights slopes facing one corner, clipped to 0..255, mirrored about the last pixel.

    Args:
        values: (B, H, W).

    Returns:
        (B, H, W).
    """
    height, width = values.shape[1:]
    padded = _mirrored(values.astype(np.int16))
    total = np.zeros(values.shape, dtype=np.int16)
    for row, weights in enumerate(((-2, -1, 0), (-1, 1, 1), (0, 1, 2))):
        for column, weight in enumerate(weights):
            if weight:
                total += weight * padded[:, row : row + height, column : column + width]
    return total.clip(0, 255).astype(np.uint8)
