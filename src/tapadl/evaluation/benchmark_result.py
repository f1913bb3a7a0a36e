"""What an evaluation found, as data and as one JSON file; every metric follows from the records."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, get_args

from tapadl.data.json_file import load_json, save_json
from tapadl.evaluation.plan import CLEAN, Form
from tapadl.evaluation.record import Record
from tapadl.evaluation.result_schema import RESULT, check_kind
from tapadl.evaluation.summary import Shares, calibration_error, image_shares
from tapadl.metrics import alexnet_baseline

SCHEMA = 1
KIND = "evaluation"
# Benchmarks whose errors AlexNet's table belongs to.
RELATIVE_TO_ALEXNET = ("imagenet-c",)


@dataclass(frozen=True, eq=False)
class BenchmarkResult:
    """All cells of one benchmark.

    Args:
        benchmark: Its name.
        form: Whether images were stored as shown, or corrupted in memory.
        images: What was shown, such as "count", "fingerprint", "subset".
        notes: What else decides the numbers, such as where frost comes from.
        records: One a cell.
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

    @property
    def errors(self) -> dict[str, dict[int, float]]:
        """Top-1 error by condition and severity, 0 for clean images and attacks; empty for sequences."""
        errors: dict[str, dict[int, float]] = {}
        for record in self.records:
            if "correct" in record.items:
                wrong = 1 - float(record.items["correct"].mean())
                errors.setdefault(record.cell.condition, {})[record.cell.severity] = wrong
        return errors

    @property
    def clean_error(self) -> float | None:
        """Top-1 error on the images as they are, if they were shown."""
        return self.errors.get(CLEAN, {}).get(0)

    def shares(self, clean_error: float | None = None) -> dict[str, Shares]:
        """Every metric as its share of each image; see `image_shares`."""
        baseline = alexnet_baseline() if self.benchmark in RELATIVE_TO_ALEXNET else None
        return image_shares(self.records, baseline, clean_error)

    def metrics(self, clean_error: float | None = None) -> dict[str, float]:
        """Every metric that the records can give, as a fraction.

        Args:
            clean_error: On the clean images of the same data set, where they were shown in another benchmark.
        """
        metrics = {name: float(values.mean()) for name, values in self.shares(clean_error).items()}
        for record in self.records:
            calibration = calibration_error(record) if record.cell.condition == CLEAN else None
            if calibration is not None:
                metrics["expected_calibration_error"] = calibration
        return metrics

    def standard_errors(self, clean_error: float | None = None) -> dict[str, float]:
        """Standard error of the metrics that are means over images, as a sample of a larger set."""
        return {
            name: float(values.std(ddof=1)) / len(values) ** 0.5
            for name, values in self.shares(clean_error).items()
            if len(values) > 1
        }

    def to_json(self, clean_error: float | None = None) -> dict[str, Any]:
        """As plain data, with what follows from the records."""
        return {
            "benchmark": self.benchmark,
            "form": self.form,
            "images": dict(self.images),
            "notes": dict(self.notes),
            "metrics": self.metrics(clean_error),
            "standard_errors": self.standard_errors(clean_error),
            "cells": [
                record.to_json()
                | {
                    name: float(values.mean())
                    for name, values in image_shares([record]).items()
                    if name in ("flip_probability", "t5d")
                }
                | ({"error": 1 - float(record.items["correct"].mean())} if "correct" in record.items else {})
                | {"expected_calibration_error": calibration_error(record)}
                for record in self.records
            ],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """What `to_json` gave; everything but the records is computed again."""
        records = tuple(Record.from_json(cell) for cell in content["cells"])
        return cls(content["benchmark"], content["form"], content["images"], content["notes"], records)


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """One model on one or several benchmarks.

    Args:
        created: When it was finished, ISO 8601, UTC.
        command: What to type to get it again.
        versions: Of Python and the libraries.
        hardware: What it ran on.
        model: "name", "weights_sha256", and what else is known of it.
        settings: Seed, precision, batch size and the like.
        benchmarks: In the order they were asked for.
    """

    created: str
    command: str
    versions: Mapping[str, str]
    hardware: Mapping[str, Any]
    model: Mapping[str, Any]
    settings: Mapping[str, Any]
    benchmarks: tuple[BenchmarkResult, ...]

    @property
    def name(self) -> str:
        """Of the model."""
        return str(self.model["name"])

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

    def clean_error_for(self, benchmark: BenchmarkResult) -> float | None:
        """Top-1 error on the clean images that belong to a benchmark: its own, or those of ImageNet."""
        if benchmark.clean_error is not None:
            return benchmark.clean_error
        of = {one.benchmark: one.clean_error for one in self.benchmarks}
        return of.get("imagenet") if benchmark.benchmark in RELATIVE_TO_ALEXNET else None

    def metrics(self, name: str) -> dict[str, float]:
        """The metrics of one benchmark, as fractions."""
        benchmark = self.benchmark(name)
        return benchmark.metrics(self.clean_error_for(benchmark))

    def to_json(self) -> dict[str, Any]:
        """As plain data, with all metrics."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            "schema": SCHEMA,
            "kind": KIND,
            **fields,
            "benchmarks": [one.to_json(self.clean_error_for(one)) for one in self.benchmarks],
        }

    def save(self, path: str | Path) -> None:
        """Write the JSON, all of it or nothing.

        Raises:
            OSError: If the file cannot be written.
        """
        save_json(self.to_json(), path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote; metrics are computed again from the records.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is no result of an evaluation, or a damaged one.
        """
        content = load_json(path)
        if content.get("kind") != KIND or content.get("schema") != SCHEMA:
            raise ValueError(
                f"expected a result of tapadl evaluate, schema {SCHEMA}, in {path}, "
                f"got kind {content.get('kind')!r} and schema {content.get('schema')!r}"
            )
        try:
            check_kind(content, RESULT)
            values = {field.name: content[field.name] for field in dataclasses.fields(cls)}
            values["benchmarks"] = tuple(BenchmarkResult.from_json(one) for one in values["benchmarks"])
            result = cls(**values)
            for found, one in zip(content["benchmarks"], result.benchmarks, strict=True):
                _check_metrics(found["metrics"], one.metrics(result.clean_error_for(one)))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else error
            raise ValueError(f"expected a complete result of an evaluation in {path}, got {reason}") from None
        return result


def _check_metrics(found: Mapping[str, float], computed: Mapping[str, float]) -> None:
    """A file whose numbers were changed by hand must not be read as if they were measured."""
    differing = [
        name for name in {*found, *computed} if abs(found.get(name, -1.0) - computed.get(name, -1.0)) > 1e-9
    ]
    if differing:
        raise ValueError(f"metrics that do not follow from its cells: {', '.join(sorted(differing))}")
