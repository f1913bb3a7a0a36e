"""Metrics of a benchmark from its records, each as its share of every image.

Every image is shown in all cells, so the cells of a benchmark are not independent. A metric that is a
weighted sum of errors is the mean over images of one number an image, which also gives its standard error
and, image by image, the difference of two models.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from tapadl.corruptions import CORRUPTIONS, SEVERITIES
from tapadl.evaluation.plan import CLEAN
from tapadl.evaluation.record import Record
from tapadl.metrics import Baseline, ExpectedCalibrationError

Shares = npt.NDArray[np.float64]


def image_shares(
    records: Sequence[Record], baseline: Baseline | None = None, clean_error: float | None = None
) -> dict[str, Shares]:
    """For every metric that the records can give its share of each image; the mean is the metric.

    Args:
        records: One a cell, all of the same images.
        baseline: Adds `mce`, and with a clean error `relative_mce`, if all its corruptions were shown at all
            severities.
        clean_error: Of the clean images of the same data set, where the records have none.

    Returns:
        `error` and `error_ATTACK`; `mean_corrupted_error`, of all and by group; `mce`, `relative_mce`.
        Of sequences `flip_probability` and `t5d`, of all and by perturbation.
    """
    if any("flips" in record.items for record in records):
        return _sequence_shares(records)
    wrong = {record.cell: 1.0 - record.items["correct"] for record in records}
    shares = {
        "error" if cell.condition == CLEAN else f"error_{cell.condition}": values
        for cell, values in wrong.items()
        if not cell.severity
    }
    corrupted: dict[str, dict[int, Shares]] = {}
    for cell, values in wrong.items():
        if cell.severity:
            corrupted.setdefault(cell.condition, {})[cell.severity] = values
    if not corrupted:
        return shares
    means = {name: _mean(list(by_severity.values())) for name, by_severity in corrupted.items()}
    shares["mean_corrupted_error"] = _mean(list(means.values()))
    groups = {name: CORRUPTIONS[name].group for name in means if name in CORRUPTIONS}
    for group in dict.fromkeys(groups.values()):
        shares[f"mean_corrupted_error_{group}"] = _mean(
            [means[name] for name in groups if groups[name] == group]
        )
    complete = baseline is not None and all(
        set(corrupted.get(name, ())) == set(SEVERITIES) for name in baseline.errors
    )
    if baseline is not None and complete:
        clean = shares.get("error", clean_error)
        shares |= _relative_shares(means, baseline, clean)
    return shares


def _relative_shares(
    means: Mapping[str, Shares], baseline: Baseline, clean: Shares | float | None
) -> dict[str, Shares]:
    """MCE and relative mCE: both are sums of errors with weights that the baseline gives."""
    references = {name: float(np.mean(errors)) for name, errors in baseline.errors.items()}
    shares = {"mce": _mean([means[name] / reference for name, reference in references.items()])}
    if clean is not None:
        shares["relative_mce"] = _mean(
            [
                (means[name] - clean) / (reference - baseline.clean_error)
                for name, reference in references.items()
            ]
        )
    return shares


def _sequence_shares(records: Sequence[Record]) -> dict[str, Shares]:
    shares: dict[str, Shares] = {}
    for metric, item in (("flip_probability", "flips"), ("t5d", "distance")):
        each = {
            record.cell.condition: record.items[item] / record.items["pairs"].astype(np.float64)
            for record in records
        }
        shares[metric] = _mean(list(each.values()))
        shares |= {f"{metric}_{name}": values for name, values in each.items()}
    return shares


def _mean(arrays: Sequence[Shares]) -> Shares:
    mean: Shares = np.mean(arrays, axis=0)
    return mean


def calibration_error(record: Record) -> float | None:
    """The expected calibration error of a cell, if its confidences were counted."""
    if "calibration" not in record.totals:
        return None
    metric = ExpectedCalibrationError()
    metric.add_counts(torch.from_numpy(record.totals["calibration"]))
    return metric.compute()
