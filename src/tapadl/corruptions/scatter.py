"""Glass: which pixel each pixel is a copy of."""

import numpy as np
import numpy.typing as npt


def scatter(uniform: npt.NDArray[np.float32], height: int, width: int, delta: int) -> npt.NDArray[np.int64]:
    """Where each pixel comes from after copying over the inner pixels, last to first.

    The pixel at (h, w) becomes a copy of the one at (h + down, w + right), down and right uniform in
    -delta..delta - 1, whose value is final already if that is a later inner pixel. No loop over pixels is
    needed: a pixel links to the final pixel it copies, and links are followed at once, twice as far each
    time, until they end at a pixel that copies an original. Chains are short: under half of all pixels link.

    Args:
        uniform: (B, iterations, height - 2 * delta, width - 2 * delta) in 0..1, row by row; each number gives
            down and right.
        height: Rows; inner ones are delta + 1 to height - delta.
        width: Columns; inner ones are delta + 1 to width - delta.
        delta: At least 1.

    Returns:
        (B, height * width): position of the original pixel.
    """
    batch, iterations = uniform.shape[:2]
    area, side = height * width, 2 * delta
    inner = np.zeros((height, width), dtype=bool)
    inner[delta + 1 : height - delta + 1, delta + 1 : width - delta + 1] = True
    # Positions run through the whole batch.
    is_inner = np.tile(inner.ravel(), batch)
    position = np.flatnonzero(is_inner)
    down, right = np.divmod(np.arange(side * side), side)
    steps = (down - delta) * width + right - delta
    sources = np.arange(batch * area)
    for iteration in range(iterations):
        choice = (uniform[:, iteration].ravel() * np.float32(side * side)).astype(np.int64)
        step = steps[choice]
        copied = sources.copy()
        copied[position] = sources[position + step]
        linking = (step > 0) & is_inner[position + step]
        link = np.arange(batch * area)
        linked = pending = position[linking]
        link[linked] += step[linking]
        while pending.size:
            further = link[link[pending]]
            moved = further != link[pending]
            link[pending] = further
            pending = pending[moved]
        copied[linked] = copied[link[linked]]
        sources = copied
    return sources.reshape(batch, area) - (np.arange(batch) * area)[:, None]
