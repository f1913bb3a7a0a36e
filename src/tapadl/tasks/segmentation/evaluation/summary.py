"""Metrics of a benchmark from counts of pixels by cell; higher is better in all of them."""

from collections.abc import Mapping, Sequence

import numpy as np

from tapadl.corruptions import CORRUPTIONS
from tapadl.evaluation.plan import CLEAN, Cell
from tapadl.evaluation.record import Record
from tapadl.tasks.segmentation.evaluation.counts import (
    Counts,
    Values,
    class_iou,
    draw_images,
    mean_iou,
    resampled,
)

CLEAN_IOU = "clean"
CORRUPTED_IOU = "corrupted"
ALL_IOU = "all"


def metrics_of(totals: Mapping[Cell, Counts]) -> dict[str, Values]:
    """Every metric that the cells can give.

    Args:
        totals: Of each cell the counts of the data set (..., C, 3); leading axes are kept.

    Returns:
        `miou` of clean images, or of all conditions of the weather together, with `miou_CONDITION` of each;
        `mean_corrupted_miou`, the mean over corruptions of the mean over severities, of all and by group.
    """
    metrics: dict[str, Values] = {}
    weather = [cell for cell in totals if not cell.severity and cell.condition != CLEAN]
    if Cell(CLEAN) in totals:
        metrics["miou"] = mean_iou(totals[Cell(CLEAN)])
    elif weather:
        metrics["miou"] = mean_iou(_sum([totals[cell] for cell in weather]))
    metrics |= {f"miou_{cell.condition}": mean_iou(totals[cell]) for cell in weather}
    by_corruption = {name: _mean(values) for name, values in _by_corruption(totals).items()}
    if by_corruption:
        metrics["mean_corrupted_miou"] = _mean(list(by_corruption.values()))
    for group in dict.fromkeys(corruption.group for corruption in CORRUPTIONS.values()):
        members = [value for name, value in by_corruption.items() if CORRUPTIONS[name].group == group]
        if members:
            metrics[f"mean_corrupted_miou_{group}"] = _mean(members)
    return metrics


def _by_corruption(totals: Mapping[Cell, Counts]) -> dict[str, list[Values]]:
    by_corruption: dict[str, list[Values]] = {}
    for cell, counts in totals.items():
        if cell.severity:
            by_corruption.setdefault(cell.condition, []).append(mean_iou(counts))
    return by_corruption


def iou_by_class(totals: Mapping[Cell, Counts]) -> dict[str, Values]:
    """Intersection over union of each class (C,), NaN where it was not found.

    Returns:
        "clean"; "corrupted", the mean over corruptions of the mean over severities; of the weather "all" and
        each condition.
    """
    found: dict[str, Values] = {}
    weather = [cell for cell in totals if not cell.severity and cell.condition != CLEAN]
    if Cell(CLEAN) in totals:
        found[CLEAN_IOU] = class_iou(totals[Cell(CLEAN)])
    elif weather:
        found[ALL_IOU] = class_iou(_sum([totals[cell] for cell in weather]))
    found |= {cell.condition: class_iou(totals[cell]) for cell in weather}
    names = dict.fromkeys(cell.condition for cell in totals if cell.severity)
    if names:
        means = [
            _mean(
                [
                    class_iou(counts)
                    for cell, counts in totals.items()
                    if cell.severity and cell.condition == name
                ]
            )
            for name in names
        ]
        found[CORRUPTED_IOU] = _mean(means)
    return found


def resampled_metrics(records: Sequence[Record], *, seed: int = 0) -> dict[str, Values]:
    """What each metric would have been with other images: (R,) of a bootstrap.

    All cells of an image are drawn together. Each condition of the weather has images of its own, which are
    drawn for themselves.

    Args:
        records: With the pixels by image.
        seed: Of the draws; two models are compared with the same.
    """
    totals = {}
    weights: dict[str, Values] = {}
    for record in records:
        own = record.cell.condition if not record.cell.severity else CLEAN
        if own not in weights:
            weights[own] = draw_images(record.count, seed=seed + len(weights))
        totals[record.cell] = resampled(record.items["pixels"], weights[own])
    return metrics_of(totals)


def totals_of(records: Sequence[Record]) -> dict[Cell, Counts]:
    """The counts (C, 3) of the data set in each cell that has labels."""
    return {
        record.cell: record.items["pixels"].sum(axis=0, dtype=np.int64)
        for record in records
        if "pixels" in record.items
    }


def _sum(arrays: Sequence[Counts]) -> Counts:
    total: Counts = np.sum(arrays, axis=0)
    return total


def _mean(arrays: Sequence[Values]) -> Values:
    mean: Values = np.mean(arrays, axis=0)
    return mean
