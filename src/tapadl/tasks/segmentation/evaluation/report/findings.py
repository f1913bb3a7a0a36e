"""What results of segmenters say about one benchmark, in the order of a page."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from tapadl.corruptions import CORRUPTIONS
from tapadl.evaluation.plan import CLEAN, Cell
from tapadl.evaluation.report.charts import Marker
from tapadl.evaluation.report.findings import look
from tapadl.tasks.segmentation.evaluation.benchmarks import (
    BENCHMARKS,
    SIXTEEN,
    severities_of,
)
from tapadl.tasks.segmentation.evaluation.compare import Comparison, ModelComparison
from tapadl.tasks.segmentation.evaluation.result import BenchmarkResult, SegmentationResult


@dataclass(frozen=True)
class Model:
    """A model of the page: its name, how it is drawn, and its result."""

    label: str
    style: str
    marker: Marker
    result: SegmentationResult


@dataclass(frozen=True)
class BenchmarkFindings:
    """One benchmark of one or several models that were shown the same.

    Args:
        name: Of the benchmark.
        models: All have it.
        comparisons: With the first model; empty for one model.
    """

    name: str
    models: tuple[Model, ...]
    comparisons: tuple[ModelComparison, ...] = ()

    @cached_property
    def found(self) -> tuple[BenchmarkResult, ...]:
        """The benchmark of each model."""
        return tuple(model.result.benchmark(self.name) for model in self.models)

    @property
    def labelled(self) -> bool:
        """Whether there are numbers."""
        return all(found.labelled for found in self.found)

    @cached_property
    def metrics(self) -> tuple[dict[str, float], ...]:
        """All metrics of each model."""
        return tuple(found.metrics for found in self.found)

    @cached_property
    def mious(self) -> tuple[dict[Cell, float], ...]:
        """MIoU of each model by cell."""
        return tuple(found.mious for found in self.found)

    @property
    def groups(self) -> dict[str, list[str]]:
        """The corruptions that were shown, by group."""
        shown = {cell.condition for cell in self.mious[0] if cell.severity}
        groups: dict[str, list[str]] = {}
        for name, corruption in CORRUPTIONS.items():
            if name in shown:
                groups.setdefault(corruption.group, []).append(name)
        return groups

    @property
    def severities(self) -> list[int]:
        """All that occur."""
        return sorted({cell.severity for cell in self.mious[0] if cell.severity})

    @property
    def weather(self) -> list[str]:
        """The conditions of real weather."""
        return [cell.condition for cell in self.mious[0] if not cell.severity and cell.condition != CLEAN]

    @property
    def headlines(self) -> list[str]:
        """The metrics that stand on top."""
        return [
            name
            for name in self.metrics[0]
            if name in ("miou", "mean_corrupted_miou") or name.removeprefix("miou_") in self.weather
        ]

    def mean_miou(self, place: int, corruption: str) -> float:
        """MIoU of a model under a corruption, mean over severities."""
        values = [value for cell, value in self.mious[place].items() if cell.condition == corruption]
        return sum(values) / len(values)

    @property
    def as_published(self) -> bool:
        """Whether what was shown are all cells of Cityscapes-C as published, and nothing else."""
        shown = {cell for cell in self.mious[0] if cell.severity}
        return self.name == "cityscapes-c" and shown == {
            Cell(name, severity) for name in SIXTEEN for severity in severities_of(self.name, name)
        }


def findings_of(
    results: Sequence[SegmentationResult], comparison: Comparison | None
) -> tuple[tuple[Model, ...], tuple[BenchmarkFindings, ...]]:
    """The models of a page, and what it says of every benchmark.

    Args:
        results: One, or those of the comparison.
        comparison: Of several results; None for one.
    """
    labels = (results[0].name,) if comparison is None else comparison.labels
    models = tuple(
        Model(label, *look(place), result)
        for place, (label, result) in enumerate(zip(labels, results, strict=True))
    )
    if comparison is None:
        return models, tuple(BenchmarkFindings(one.benchmark, models) for one in results[0].benchmarks)
    return models, tuple(
        BenchmarkFindings(name, models, comparisons) for name, comparisons in comparison.by_benchmark.items()
    )


def benchmark_title(name: str) -> str:
    """One line on a benchmark."""
    return BENCHMARKS[name].title if name in BENCHMARKS else ""
