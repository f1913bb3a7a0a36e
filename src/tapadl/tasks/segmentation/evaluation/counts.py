"""Intersection over union from counts of pixels by image, and what it could have been with other images.

mIoU is no mean over images: intersections and unions are added up over the data set first. So a bootstrap
adds up the counts of the images it has drawn, and computes mIoU anew from every such sum.
"""

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.generic]
"""(..., C, 3): for each class the pixels that are in the intersection, were predicted, and are labelled."""

Values = npt.NDArray[np.float64]

NUM_RESAMPLES = 2000


def class_iou(counts: Counts) -> Values:
    """Intersection over union of each class, NaN where it is in neither predictions nor labels.

    Args:
        counts: (..., C, 3), of the whole data set.

    Returns:
        (..., C).

    Example:
        >>> class_iou(np.array([[6, 8, 10], [0, 0, 4], [0, 0, 0]]))
        array([0.5, 0. , nan])
    """
    intersection, predicted, labelled = np.moveaxis(counts.astype(np.float64), -1, 0)
    union = predicted + labelled - intersection
    iou: Values = np.divide(intersection, union, out=np.full(union.shape, np.nan), where=union > 0)
    return iou


def mean_iou(counts: Counts) -> Values:
    """The mean of `class_iou` over the classes that were found; NaN where there is none.

    Example:
        >>> float(mean_iou(np.array([[6, 8, 10], [0, 0, 4], [0, 0, 0]])))
        0.25
    """
    iou = class_iou(counts)
    found = ~np.isnan(iou)
    total, number = np.where(found, iou, 0).sum(axis=-1), found.sum(axis=-1)
    mean: Values = np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0)
    return mean


def draw_images(count: int, *, seed: int, num_resamples: int = NUM_RESAMPLES) -> Values:
    """How often each image is in each resample of a bootstrap.

    Args:
        count: Images N.
        seed: Of the draws; the same for two models that are compared.
        num_resamples: R, how often N images are drawn out of N.

    Returns:
        (R, N); rows add up to N.
    """
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=num_resamples)
    weights: Values = draws.astype(np.float64)
    return weights


def resampled(counts: Counts, weights: Values) -> Values:
    """Counts of the data set that each resample makes.

    Args:
        counts: (N, C, 3), by image.
        weights: (R, N), of `draw_images`.

    Returns:
        (R, C, 3), exact: sums of whole numbers.
    """
    flat = counts.reshape(len(counts), -1).astype(np.float64)
    totals: Values = (weights @ flat).reshape(len(weights), *counts.shape[1:])
    return totals


def interval(values: Values, level: float = 0.95) -> tuple[float, float]:
    """The middle share of resampled values (the percentile bootstrap)."""
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
