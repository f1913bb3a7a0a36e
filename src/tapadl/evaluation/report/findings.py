"""What results say about one benchmark, in the order of a page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from tapadl.corruptions import CORRUPTIONS, SEVERITIES
from tapadl.evaluation.benchmark_result import RELATIVE_TO_ALEXNET, BenchmarkResult, EvaluationResult
from tapadl.evaluation.compare import Comparison, ModelComparison, model_labels
from tapadl.evaluation.plan import CLEAN
from tapadl.evaluation.report.charts import Marker
from tapadl.evaluation.report.measures import Measure, measure
from tapadl.evaluation.summary import calibration_error
from tapadl.metrics import ExpectedCalibrationError, alexnet_baseline

# Colours far apart for every kind of eye come first; six colours, then the next mark.
_COLOURS = (0, 3, 1, 2, 5, 4)
_MARKERS: tuple[Marker, ...] = ("circle", "square", "triangle", "diamond")
OTHER_GROUP = "other"


@dataclass(frozen=True)
class Model:
    """A model of the page: its name, how it is drawn, and its result."""

    label: str
    style: str
    marker: Marker
    result: EvaluationResult


@dataclass(frozen=True)
class Entry:
    """One metric of one model; `value` is None where the result does not have it."""

    model: Model
    value: float | None
    standard_error: float | None


@dataclass(frozen=True)
class Headline:
    """One metric of all models, and why it is missing where it is."""

    name: str
    measure: Measure
    entries: tuple[Entry, ...]
    missing: str = ""

    @property
    def with_accuracy(self) -> bool:
        """Whether 100 % minus the value is an accuracy."""
        return self.name == "mean_corrupted_error" or self.name.startswith("error")


def make_models(results: Sequence[EvaluationResult]) -> tuple[Model, ...]:
    """The models of a page, each drawn in its own way."""
    return tuple(
        Model(label, *look(place), result)
        for place, (label, result) in enumerate(zip(model_labels(results), results, strict=True))
    )


def look(place: int) -> tuple[str, Marker]:
    """The CSS class that gives its colour to the model at a place of the page, and its mark."""
    return f"v{_COLOURS[place % 6]}", _MARKERS[(place + place // 6) % 4]


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

    @cached_property
    def metrics(self) -> tuple[Mapping[str, float], ...]:
        """All metrics of each model."""
        return tuple(model.result.metrics(self.name) for model in self.models)

    @cached_property
    def standard_errors(self) -> tuple[Mapping[str, float], ...]:
        """Their standard errors, where there are any."""
        return tuple(
            found.standard_errors(model.result.clean_error_for(found))
            for model, found in zip(self.models, self.found, strict=True)
        )

    @cached_property
    def errors(self) -> tuple[dict[str, dict[int, float]], ...]:
        """Top-1 error of each model by condition and severity."""
        return tuple(found.errors for found in self.found)

    @property
    def corruptions(self) -> dict[str, list[int]]:
        """What images were damaged with, and the severities, group by group."""
        shown = {name: sorted(cells) for name, cells in self.errors[0].items() if any(cells)}
        return {name: shown[name] for names in self._by_group(shown).values() for name in names}

    @property
    def groups(self) -> dict[str, list[str]]:
        """The corruptions of each group."""
        return self._by_group(self.corruptions)

    @property
    def severities(self) -> list[int]:
        """All that occur."""
        return sorted({severity for severities in self.corruptions.values() for severity in severities})

    @property
    def attacks(self) -> list[str]:
        """Conditions that are attacks."""
        return [name for name, cells in self.errors[0].items() if not any(cells) and name != CLEAN]

    @property
    def perturbations(self) -> list[str]:
        """What the frames of sequences were perturbed with."""
        prefix = "flip_probability_"
        return [name.removeprefix(prefix) for name in self.metrics[0] if name.startswith(prefix)]

    @property
    def metric_names(self) -> list[str]:
        """Every metric that some model has."""
        return list(dict.fromkeys(name for metrics in self.metrics for name in metrics))

    @property
    def relative_to_alexnet(self) -> bool:
        """Whether AlexNet's errors belong to this benchmark."""
        return self.name in RELATIVE_TO_ALEXNET

    def mean_error(self, place: int, corruption: str) -> float:
        """Error of a model under a corruption, mean over severities."""
        return float(np.mean(list(self.errors[place][corruption].values())))

    def corruption_error(self, place: int, corruption: str) -> float | None:
        """The same divided by AlexNet's; None where that is not known or a severity is missing."""
        references = alexnet_baseline().errors.get(corruption) if self.relative_to_alexnet else None
        if references is None or set(self.errors[place][corruption]) != set(SEVERITIES):
            return None
        return self.mean_error(place, corruption) / float(np.mean(references))

    def entry(self, place: int, metric: str) -> Entry:
        """A metric of a model."""
        return Entry(
            self.models[place], self.metrics[place].get(metric), self.standard_errors[place].get(metric)
        )

    def headlines(self) -> list[Headline]:
        """The metrics that readers mix up, side by side."""
        if self.perturbations:
            names = ["flip_probability", "t5d"]
        elif self.corruptions:
            relative = ["mce", "relative_mce"] if self.relative_to_alexnet else []
            names = ["error", "mean_corrupted_error", *relative]
        else:
            names = ["error", *(f"error_{attack}" for attack in self.attacks), "expected_calibration_error"]
        return [self._headline(name) for name in names if name != "error" or name in self.metric_names]

    def _headline(self, name: str) -> Headline:
        entries = tuple(self.entry(place, name) for place in range(len(self.models)))
        lacking = [entry.model.label for entry in entries if entry.value is None]
        missing = ""
        if len(lacking) == len(entries):
            missing = self._why_missing(name)
        elif lacking:
            missing = f"Not known of {', '.join(lacking)}."
        return Headline(name, measure(name), entries, missing)

    def _why_missing(self, name: str) -> str:
        label = measure(name).label
        incomplete = [
            corruption
            for corruption in alexnet_baseline().errors
            if any(set(errors.get(corruption, ())) != set(SEVERITIES) for errors in self.errors)
        ]
        if name in ("mce", "relative_mce") and incomplete:
            more = f" and {len(incomplete) - 3} more" if len(incomplete) > 3 else ""
            return (
                f"There is no {label} here: it takes all fifteen corruptions at all five severities, and "
                f"{', '.join(incomplete[:3])}{more} {'is' if len(incomplete) == 1 else 'are'} not complete."
            )
        if name == "relative_mce":
            return f"There is no {label} here: it takes clean images; evaluate imagenet with imagenet-c."
        return f"There is no {label} here: it was not measured."

    @staticmethod
    def _by_group(names: Mapping[str, object]) -> dict[str, list[str]]:
        group_of = {name: CORRUPTIONS[name].group if name in CORRUPTIONS else OTHER_GROUP for name in names}
        order = dict.fromkeys([*(corruption.group for corruption in CORRUPTIONS.values()), OTHER_GROUP])
        groups = {group: [name for name in names if group_of[name] == group] for group in order}
        return {group: members for group, members in groups.items() if members}

    def calibration(self, place: int, *, corrupted: bool) -> ExpectedCalibrationError | None:
        """Confidences of a model on the images as they are, or on all corrupted ones together."""
        counts = [
            record.totals["calibration"]
            for record in self.found[place].records
            if "calibration" in record.totals and self._in(record.cell.condition, corrupted=corrupted)
        ]
        if not counts:
            return None
        metric = ExpectedCalibrationError()
        metric.add_counts(torch.from_numpy(np.sum(counts, axis=0)))
        return metric

    def _in(self, condition: str, *, corrupted: bool) -> bool:
        return condition in self.corruptions if corrupted else condition == CLEAN

    def calibration_errors(self, place: int) -> dict[int, float]:
        """Calibration error of a model by severity, 0 for the images as they are; mean over corruptions."""
        by_severity: dict[int, list[float]] = {}
        for record in self.found[place].records:
            error = calibration_error(record)
            if error is not None and record.cell.condition not in self.attacks:
                by_severity.setdefault(record.cell.severity, []).append(error)
        return {severity: float(np.mean(errors)) for severity, errors in sorted(by_severity.items())}


def findings_of(
    results: Sequence[EvaluationResult], comparison: Comparison | None
) -> tuple[tuple[Model, ...], tuple[BenchmarkFindings, ...]]:
    """The models of a page, and what it says of every benchmark.

    Args:
        results: One, or those of the comparison.
        comparison: Of several results; None for one.
    """
    models = make_models(results)
    if comparison is None:
        return models, tuple(BenchmarkFindings(one.benchmark, models) for one in results[0].benchmarks)
    return models, tuple(
        BenchmarkFindings(name, models, comparisons) for name, comparisons in comparison.by_benchmark.items()
    )
