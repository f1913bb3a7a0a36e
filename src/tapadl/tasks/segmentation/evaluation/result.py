"""What an evaluation of a segmenter found, as data and as one JSON file; every metric follows from counts."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np

from tapadl.data.json_file import load_json, save_json
from tapadl.data.segmentation import LabelScheme
from tapadl.evaluation.plan import Cell
from tapadl.evaluation.record import Record
from tapadl.evaluation.result_schema import check_kind
from tapadl.tasks.segmentation.evaluation.benchmarks import Form
from tapadl.tasks.segmentation.evaluation.counts import Counts, Values, interval, mean_iou
from tapadl.tasks.segmentation.evaluation.result_schema import RESULT
from tapadl.tasks.segmentation.evaluation.summary import (
    iou_by_class,
    metrics_of,
    resampled_metrics,
    totals_of,
)

SCHEMA = 1
KIND = "segmentation"


@dataclass(frozen=True, eq=False)
class BenchmarkResult:
    """All cells of one benchmark.

    Args:
        benchmark: Its name.
        form: Whether images were stored as shown, or corrupted in memory.
        images: What was shown, such as "count", "fingerprints", "subset", "split".
        notes: What else decides the numbers, such as whose constants the corruptions have.
        records: One a cell.

    Raises:
        ValueError: If these do not fit one another.
    """

    benchmark: str
    form: Form
    images: Mapping[str, Any]
    notes: Mapping[str, Any]
    records: tuple[Record, ...]

    def __post_init__(self) -> None:
        if self.form not in get_args(Form):
            raise ValueError(f"expected a form out of {', '.join(get_args(Form))}, got {self.form!r}")
        if not self.records:
            raise ValueError(f"expected records of {self.benchmark}, got none")
        cells = [record.cell for record in self.records]
        if len(set(cells)) < len(cells):
            raise ValueError(f"expected each cell of {self.benchmark} once")

    @property
    def labelled(self) -> bool:
        """Whether there are numbers; without labels there are predictions alone."""
        return all("pixels" in record.items for record in self.records)

    @cached_property
    def totals(self) -> dict[Cell, Counts]:
        """Of each cell the pixels of the data set by class: intersection, predicted, labelled."""
        return totals_of(self.records)

    @property
    def mious(self) -> dict[Cell, float]:
        """MIoU of each cell, 0..1."""
        return {cell: float(mean_iou(counts)) for cell, counts in self.totals.items()}

    @property
    def metrics(self) -> dict[str, float]:
        """Every metric, 0..1; see `metrics_of`."""
        return {name: float(value) for name, value in metrics_of(self.totals).items()}

    @property
    def iou(self) -> dict[str, Values]:
        """Intersection over union of each class; see `iou_by_class`."""
        return iou_by_class(self.totals)

    @cached_property
    def resamples(self) -> dict[str, Values]:
        """What each metric would have been with other images; see `resampled_metrics`."""
        return resampled_metrics(self.records) if self.labelled else {}

    def interval(self, metric: str) -> tuple[float, float] | None:
        """95 % bootstrap interval of a metric over images; None where a condition has a single image."""
        return interval(self.resamples[metric]) if self.fewest > 1 else None

    @property
    def fewest(self) -> int:
        """Images of the condition with the fewest."""
        return min(record.count for record in self.records)

    def to_json(self) -> dict[str, Any]:
        """As plain data, with what follows from the records; null for a class that was not found."""
        return {
            "benchmark": self.benchmark,
            "form": self.form,
            "images": dict(self.images),
            "notes": dict(self.notes),
            "metrics": {name: _number(value) for name, value in self.metrics.items()},
            "iou": {name: [_number(one) for one in values] for name, values in self.iou.items()},
            "cells": [
                record.to_json()
                | ({"miou": _number(self.mious[record.cell])} if record.cell in self.totals else {})
                for record in self.records
            ],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """What `to_json` gave; everything but the records is computed again.

        Raises:
            KeyError, TypeError, ValueError: If the content is anything else.
        """
        records = tuple(Record.from_json(cell) for cell in content["cells"])
        return cls(content["benchmark"], content["form"], content["images"], content["notes"], records)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


@dataclass(frozen=True, eq=False)
class SegmentationResult:
    """One segmenter on one or several benchmarks.

    Args:
        created: When it was finished, ISO 8601, UTC.
        command: What to type to get it again.
        versions: Of Python and the libraries.
        hardware: What it ran on.
        model: "name", "weights_sha256", and what else is known of it.
        settings: Seed, precision, window and the like.
        classes: "names" and "colours".
        benchmarks: In the order they were asked for.
    """

    created: str
    command: str
    versions: Mapping[str, str]
    hardware: Mapping[str, Any]
    model: Mapping[str, Any]
    settings: Mapping[str, Any]
    classes: Mapping[str, Any]
    benchmarks: tuple[BenchmarkResult, ...]

    @property
    def name(self) -> str:
        """Of the model."""
        return str(self.model["name"])

    @property
    def scheme(self) -> LabelScheme:
        """Names and colours of the classes."""
        names, colours = (tuple(self.classes[key]) for key in ("names", "colours"))
        return LabelScheme(names, tuple(range(len(names))), (), tuple(tuple(colour) for colour in colours))

    def benchmark(self, name: str) -> BenchmarkResult:
        """One benchmark by its name.

        Raises:
            ValueError: If it is not in the result.
        """
        for benchmark in self.benchmarks:
            if benchmark.benchmark == name:
                return benchmark
        known = ", ".join(benchmark.benchmark for benchmark in self.benchmarks)
        raise ValueError(f"expected a benchmark out of {known} in the result of {self.name}, got {name!r}")

    def to_json(self) -> dict[str, Any]:
        """As plain data, with all metrics."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            "schema": SCHEMA,
            "kind": KIND,
            **fields,
            "benchmarks": [one.to_json() for one in self.benchmarks],
        }

    def save(self, path: str | Path) -> None:
        """Write the JSON, all of it or nothing.

        Raises:
            OSError: If the file cannot be written.
        """
        save_json(self.to_json(), path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote; metrics are computed again from the counts.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is no result of an evaluation of a segmenter, or a damaged one.
        """
        content = load_json(path)
        if content.get("kind") != KIND or content.get("schema") != SCHEMA:
            raise ValueError(
                f"expected a result of tapadl evaluate --task segmentation, schema {SCHEMA}, in {path}, "
                f"got kind {content.get('kind')!r} and schema {content.get('schema')!r}"
            )
        try:
            check_kind(content, RESULT)
            values = {field.name: content[field.name] for field in dataclasses.fields(cls)}
            values["benchmarks"] = tuple(BenchmarkResult.from_json(one) for one in values["benchmarks"])
            result = cls(**values)
            num_classes = result.scheme.num_classes
            for found, one in zip(content["benchmarks"], result.benchmarks, strict=True):
                for record in one.records:
                    _check_counts(record, num_classes)
                _check_numbers(found, one.to_json())
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else error
            raise ValueError(f"expected a complete result of a segmenter in {path}, got {reason}") from None
        return result


def _check_counts(record: Record, num_classes: int) -> None:
    """Raise ValueError unless the pixels of images and the confusion matrix can be of one data set."""
    if "pixels" not in record.items:
        return
    pixels = record.items["pixels"].astype(np.int64)
    if pixels.shape != (record.count, num_classes, 3):
        raise ValueError(
            f"counts of shape {pixels.shape} in {record.cell.key} for {num_classes} classes of "
            f"{record.count} images"
        )
    confusion = record.totals["confusion"]
    sums = np.stack((confusion.diagonal(), confusion.sum(axis=0), confusion.sum(axis=1)), axis=1)
    if (confusion < 0).any() or not np.array_equal(pixels.sum(axis=0), sums):
        raise ValueError(f"a confusion matrix that does not follow from the counts of {record.cell.key}")


def _check_numbers(found: Mapping[str, Any], computed: Mapping[str, Any]) -> None:
    """A file whose numbers were changed by hand must not be read as if they were measured."""
    differing = [name for name in ("metrics", "iou") if not _close(found[name], computed[name])]
    for cell, own in zip(found["cells"], computed["cells"], strict=True):
        if not _close(cell.get("miou"), own.get("miou")):
            differing.append(f"miou of {own['condition']}/{own['severity']}")
    if differing:
        raise ValueError(f"numbers that do not follow from its counts: {', '.join(differing[:5])}")


def _close(found: Any, computed: Any) -> bool:
    if isinstance(computed, Mapping):
        return found.keys() == computed.keys() and all(_close(found[key], computed[key]) for key in computed)
    if isinstance(computed, list):
        return len(found) == len(computed) and all(map(_close, found, computed))
    if found is None or computed is None:
        return found is computed
    return not isinstance(found, bool) and abs(found - computed) <= 1e-9
