"""What the results of a demo say, in the words and numbers of its page."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tapadl.evaluation.report.words import percent, signed

BASELINE = "plain"
# The variant the headline is about, in order of preference.
_PROTAGONISTS = ("tap+adl", "tap", "adl")
VARIANT_LABELS = {
    "plain": "Plain ViT",
    "tap": "ViT + TAP",
    "adl": "ViT + ADL",
    "tap+adl": "ViT + TAP + ADL",
    "plain-equal-time": "Plain ViT, equal time",
}
METRIC_LABELS = {
    "clean_error": "Clean",
    "mean_corruption_error": "All corruptions",
    "noise": "Noise",
    "blur": "Blur",
    "weather": "Weather",
    "digital": "Digital",
}
GROUPS = ("noise", "blur", "weather", "digital")
# Images seen in training, repeats counted, from which on a demo says something: the built-in ones once.
ENOUGH_IMAGES = 20_000


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its sample standard deviation; None with one seed."""

    mean: float
    std: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate":
        """From one value a seed.

        Example:
            >>> Estimate.of([0.2, 0.4]).mean
            0.30000000000000004
        """
        std = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), std, len(values))

    @property
    def percent(self) -> str:
        """As "23.4 ± 0.5", without the sign of the unit."""
        return percent(self.mean) + ("" if self.std is None else f" ± {percent(self.std)}")

    @property
    def points(self) -> str:
        """A difference in percentage points, with its sign: "−2.6 ± 0.4"."""
        return signed(100 * self.mean, 1) + ("" if self.std is None else f" ± {percent(self.std)}")

    @property
    def exceeds_spread(self) -> bool | None:
        """Whether the mean is further from zero than its standard deviation; None with one seed."""
        return None if self.std is None else abs(self.mean) > self.std


@dataclass(frozen=True)
class TableCell:
    """One number of the table, its difference to plain and whether it is clearly the best of its column."""

    value: Estimate
    difference: Estimate | None
    best: bool


@dataclass(frozen=True)
class TableRow:
    """One variant of the table; `cells` has a None where a metric was not measured."""

    variant: str
    parameters: int
    seconds: float
    steps: float
    step_seconds: float
    cells: tuple[TableCell | None, ...]


@dataclass(frozen=True)
class Findings:
    """The results of a demo by variant.

    Args:
        results: What `DemoResult.to_json` gives.

    Raises:
        ValueError: If there is no run in it.
    """

    results: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not self.results.get("runs"):
            raise ValueError("expected results with at least one run, got none; finish a demo first")

    @property
    def variants(self) -> list[str]:
        """In the order of the runs."""
        return list(dict.fromkeys(run["variant"] for run in self.results["runs"]))

    @property
    def seeds(self) -> list[int]:
        """In the order of the runs."""
        return list(dict.fromkeys(run["seed"] for run in self.results["runs"]))

    @property
    def protagonist(self) -> str | None:
        """The variant compared to plain in the headline; None without plain or without another."""
        others = [variant for variant in self.variants if variant != BASELINE]
        if BASELINE not in self.variants or not others:
            return None
        return next((variant for variant in _PROTAGONISTS if variant in others), others[0])

    @property
    def metrics(self) -> list[str]:
        """The errors that were measured."""
        present = {name for run in self.results["runs"] for name in _errors_of(run)}
        return [name for name in METRIC_LABELS if name in present]

    @property
    def quick_note(self) -> str | None:
        """What to say of models that saw fewer images than one pass over the built-in ones, or None."""
        settings = self.results.get("settings", {})
        batch_size = settings.get("training", {}).get("batch_size")
        images = settings.get("counts", {}).get("train")
        steps = min(run["steps"] for run in self.results["runs"])
        # one batch more: what is left of an epoch after full batches is not shown
        if batch_size is None or images is None or (steps + 1) * batch_size > ENOUGH_IMAGES:
            return None
        return (
            f"Quick run: {steps:,} steps on {images:,} images: a check that everything works, not a result."
        )

    def runs(self, variant: str) -> list[Mapping[str, Any]]:
        """All runs of a variant."""
        return [run for run in self.results["runs"] if run["variant"] == variant]

    def estimate(self, variant: str, value: Callable[[Mapping[str, Any]], float | None]) -> Estimate | None:
        """A value of the runs of a variant over its seeds; None where no run has it."""
        found = [value(run) for run in self.runs(variant)]
        known = [number for number in found if number is not None]
        return Estimate.of(known) if known else None

    def error(self, variant: str, metric: str) -> Estimate | None:
        """A metric of a variant over its seeds."""
        return self.estimate(variant, lambda run: _errors_of(run).get(metric))

    def difference(self, variant: str, metric: str) -> Estimate | None:
        """A metric minus that of plain with the same seed, over the seeds both have."""
        plain = {run["seed"]: _errors_of(run).get(metric) for run in self.runs(BASELINE)}
        pairs = [(_errors_of(run).get(metric), plain.get(run["seed"])) for run in self.runs(variant)]
        known = [own - other for own, other in pairs if own is not None and other is not None]
        return Estimate.of(known) if known and variant != BASELINE else None

    def cell_error(self, variant: str, corruption: str, severity: int) -> Estimate | None:
        """The error of a variant in one cell over its seeds."""

        def value(run: Mapping[str, Any]) -> float | None:
            for cell in run["cells"]:
                if cell["corruption"] == corruption and cell["severity"] == severity:
                    return float(cell["errors"] / cell["count"])
            return None

        return self.estimate(variant, value)

    def cells_of_corruptions(self) -> dict[str, list[int]]:
        """Every corruption that was evaluated, with its severities."""
        found: dict[str, list[int]] = {}
        for run in self.results["runs"]:
            for cell in run["cells"]:
                severities = found.setdefault(cell["corruption"], []) if cell["severity"] else []
                if cell["severity"] not in severities:
                    severities.append(cell["severity"])
        return {name: sorted(severities) for name, severities in found.items()}

    def table(self) -> list[TableRow]:
        """One row a variant, one cell a metric."""
        best = {metric: self._clear_best(metric) for metric in self.metrics}
        return [self._row(variant, best) for variant in self.variants]

    def _row(self, variant: str, best: Mapping[str, str | None]) -> TableRow:
        runs = self.runs(variant)
        cells = []
        for metric in self.metrics:
            value = self.error(variant, metric)
            difference = self.difference(variant, metric)
            cells.append(None if value is None else TableCell(value, difference, best[metric] == variant))
        return TableRow(
            variant,
            runs[0]["parameters"],
            statistics.fmean(run["training_seconds"] for run in runs),
            statistics.fmean(run["steps"] for run in runs),
            # the median step, where it is known: other work on the machine hardly moves it
            statistics.fmean(
                run.get("step_seconds") or run["training_seconds"] / run["steps"] for run in runs
            ),
            tuple(cells),
        )

    def _clear_best(self, metric: str) -> str | None:
        """The lowest variant, if the next one is further away than either varies over seeds."""
        found = [(self.error(variant, metric), variant) for variant in self.variants]
        ranked = sorted(
            ((value.mean, value.std, variant) for value, variant in found if value), key=lambda item: item[0]
        )
        if len(ranked) < 2 or ranked[0][1] is None or ranked[1][1] is None:
            return None
        (low, low_std, winner), (high, high_std, _) = ranked[:2]
        return winner if high - low > max(low_std or 0.0, high_std or 0.0) else None


def verdict(difference: Estimate | None) -> str:
    """What a paired difference of errors allows to say, in one sentence.

    Example:
        >>> verdict(Estimate(-0.02, 0.005, 5))
        'Fewer errors, by more than the spread over 5 seeds.'
        >>> verdict(Estimate(0.001, 0.004, 5))
        'No difference beyond the spread over 5 seeds.'
    """
    if difference is None:
        return "There is nothing to compare with."
    if abs(difference.mean) < 1e-12:  # of errors summed in another order
        return "The same number of errors."
    way = "Fewer" if difference.mean < 0 else "More"
    if difference.exceeds_spread is None:
        return f"{way} errors, with one seed: nothing is known about the spread."
    if difference.exceeds_spread:
        return f"{way} errors, by more than the spread over {difference.n} seeds."
    return f"No difference beyond the spread over {difference.n} seeds."


def variant_label(variant: str) -> str:
    """How the page calls a variant."""
    return VARIANT_LABELS.get(variant, variant)


def _errors_of(run: Mapping[str, Any]) -> dict[str, float]:
    return {
        "clean_error": run["clean_error"],
        "mean_corruption_error": run["mean_corruption_error"],
        **{name: error for name, error in run.get("groups", {}).items() if name in GROUPS},
    }
