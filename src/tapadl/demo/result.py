"""What an evaluation found, as data and as JSON."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tapadl.corruptions import CORRUPTIONS
from tapadl.data.json_file import load_json, save_json
from tapadl.metrics.corruption import mean_corrupted_error, mean_corrupted_error_by_group

SCHEMA = 1
GROUPS = ("noise", "blur", "weather", "digital")
BASELINE = "plain"

_NUMBERS = (
    "seed", "parameters", "epochs", "steps", "training_seconds", "step_seconds", "validation_error"
)  # fmt: skip


@dataclass(frozen=True)
class CellResult:
    """Wrong answers under one condition.

    Args:
        corruption: Name of the corruption, or "clean".
        severity: 1 to 5; 0 for clean.
        errors: Images classified wrongly.
        count: Images shown.

    Raises:
        ValueError: Unless 0 <= errors <= count and count is at least 1.

    Example:
        >>> CellResult("fog", 3, errors=25, count=100).error
        0.25
    """

    corruption: str
    severity: int
    errors: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.errors <= self.count or self.count < 1:
            raise ValueError(
                f"expected errors from 0 to count and at least one image for {self.corruption} "
                f"at severity {self.severity}, got {self.errors} of {self.count}"
            )

    @property
    def error(self) -> float:
        """Fraction of wrong answers."""
        return self.errors / self.count


@dataclass(frozen=True)
class RunResult:
    """One model: trained once, evaluated in every cell.

    Args:
        variant: What was trained.
        seed: Of its weights, data order and augmentation.
        parameters: Number of trained and fixed parameters.
        epochs: Passes over the training images.
        steps: Optimizer steps.
        training_seconds: Wall-clock time of training.
        step_seconds: Median time of one step.
        weights_sha256: Of the saved weights.
        validation_error: On the clean validation images.
        cells: Clean, and corruption x severity.
        curve: Training loss: {"step", "loss", "learning_rate"} a point.
        attention: Attention statistics, where diagnostics were run.
    """

    variant: str
    seed: int
    parameters: int
    epochs: float
    steps: int
    training_seconds: float
    step_seconds: float
    weights_sha256: str
    validation_error: float
    cells: tuple[CellResult, ...]
    curve: tuple[Mapping[str, float], ...] = ()
    attention: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not any(cell.severity == 0 for cell in self.cells) or not self.corrupted_errors:
            raise ValueError(
                f"expected a clean and a corrupted cell of {self.variant}, got {len(self.cells)} cells"
            )

    @property
    def clean_error(self) -> float:
        """Error on the images as they are."""
        return next(cell.error for cell in self.cells if cell.severity == 0)

    @property
    def corrupted_errors(self) -> dict[str, list[float]]:
        """Errors by corruption, at rising severity."""
        errors: dict[str, list[float]] = {}
        for cell in sorted(self.cells, key=lambda cell: cell.severity):
            if cell.severity > 0:
                errors.setdefault(cell.corruption, []).append(cell.error)
        return errors

    @property
    def mean_corruption_error(self) -> float:
        """Mean error over all corruptions and severities; not divided by a reference model's."""
        return mean_corrupted_error(self.corrupted_errors, num_severities=self._num_severities)

    @property
    def groups(self) -> dict[str, float]:
        """Mean error by group of corruptions, those groups that were evaluated."""
        groups = {name: corruption.group for name, corruption in CORRUPTIONS.items()}
        return mean_corrupted_error_by_group(
            self.corrupted_errors, groups, num_severities=self._num_severities
        )

    @property
    def _num_severities(self) -> int:
        """A quick demo shows some severities only, of every corruption the same."""
        return len({cell.severity for cell in self.cells if cell.severity > 0})

    @property
    def metrics(self) -> dict[str, float]:
        """Everything that is summed up over seeds."""
        return {
            "clean_error": self.clean_error,
            "mean_corruption_error": self.mean_corruption_error,
            **self.groups,
            "validation_error": self.validation_error,
            "training_seconds": self.training_seconds,
        }

    def to_json(self) -> dict[str, Any]:
        """As plain data, with what is derived from the cells."""
        return dataclasses.asdict(self) | {
            "clean_error": self.clean_error,
            "mean_corruption_error": self.mean_corruption_error,
            "groups": self.groups,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The run in what `to_json` gave; derived values are computed again.

        Raises:
            KeyError, TypeError, ValueError: If the content is anything else.
        """
        values = {item.name: content[item.name] for item in dataclasses.fields(cls)}
        _check_types(values)
        values["cells"] = tuple(CellResult(**cell) for cell in values["cells"])
        values["curve"] = tuple(values["curve"])
        return cls(**values)


@dataclass(frozen=True)
class DemoResult:
    """All runs of a demo and where they come from.

    Args:
        created: When it was finished, ISO 8601, UTC.
        command: What to type to get it again.
        versions: Of Python and the libraries.
        hardware: What it ran on.
        settings: Data, training, model.
        corruptions: How the corrupted images were made.
        runs: One a variant and seed.
    """

    created: str
    command: str
    versions: Mapping[str, str]
    hardware: Mapping[str, Any]
    settings: Mapping[str, Any]
    corruptions: Mapping[str, Any]
    runs: tuple[RunResult, ...]

    @property
    def variants(self) -> tuple[str, ...]:
        """In the order of the runs."""
        return tuple(dict.fromkeys(run.variant for run in self.runs))

    @property
    def summary(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """For every variant and metric the mean, sample standard deviation and number over seeds."""
        return {
            variant: _over_seeds([run.metrics for run in self.runs if run.variant == variant])
            for variant in self.variants
        }

    @property
    def paired(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """For every other variant the difference to plain with the same seed, summed up over seeds."""
        plain = {run.seed: run.metrics for run in self.runs if run.variant == BASELINE}
        differences = {
            variant: [
                {metric: value - plain[run.seed][metric] for metric, value in run.metrics.items()}
                for run in self.runs
                if run.variant == variant and run.seed in plain
            ]
            for variant in self.variants
            if variant != BASELINE
        }
        return {variant: _over_seeds(found) for variant, found in differences.items() if found}

    def to_json(self) -> dict[str, Any]:
        """As plain data, with summary and paired differences."""
        fields = {
            item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.name != "runs"
        }
        return {
            "schema": SCHEMA,
            "kind": "demo",
            **fields,
            "runs": [run.to_json() for run in self.runs],
            "summary": self.summary,
            "paired": self.paired,
        }

    def save(self, path: str | Path) -> None:
        """Write the JSON, all of it or nothing.

        Raises:
            OSError: If the file cannot be written.
        """
        save_json(self.to_json(), path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is not a demo result of this schema.
        """
        content = load_json(path)
        if content.get("kind") != "demo" or content.get("schema") != SCHEMA:
            raise ValueError(
                f"expected a demo result of schema {SCHEMA} in {path}, "
                f"got kind {content.get('kind')!r} and schema {content.get('schema')!r}"
            )
        try:
            values = {item.name: content[item.name] for item in dataclasses.fields(cls)}
            values["runs"] = tuple(RunResult.from_json(run) for run in values["runs"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"expected a complete demo result in {path}, got {_reason(error)}") from None
        return cls(**values)


def save_run(run: RunResult, path: str | Path, *, job: str) -> None:
    """Write one run as JSON, all of it or nothing.

    Args:
        run: What to write.
        path: The file.
        job: What tells the settings of the run from others.

    Raises:
        OSError: If the file cannot be written.
    """
    save_json({"schema": SCHEMA, "kind": "run", "job": job, **run.to_json()}, path)


def load_run(path: str | Path, *, job: str) -> RunResult:
    """Read what `save_run` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not a run of this schema and this job.
    """
    content = load_json(path)
    if content.get("kind") != "run" or content.get("schema") != SCHEMA:
        raise ValueError(f"expected a run of schema {SCHEMA} in {path}, got another kind of file; remove it")
    if content.get("job") != job:
        raise ValueError(f"expected a run of this job in {path}, got one of another; remove it")
    try:
        return RunResult.from_json(content)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"expected a complete run in {path}, got {_reason(error)}; remove it") from None


def _over_seeds(found: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float | None]]:
    return {
        metric: {
            "mean": statistics.fmean(run[metric] for run in found),
            "std": statistics.stdev(run[metric] for run in found) if len(found) > 1 else None,
            "n": len(found),
        }
        for metric in found[0]
    }


def _check_types(run: Mapping[str, Any]) -> None:
    """What a run holds is looked at much later; a null would end a demo that could do the run again."""
    numbers: dict[str, Any] = {name: run[name] for name in _NUMBERS}
    for place, point in enumerate(run["curve"]):
        numbers |= {f"curve[{place}].{name}": value for name, value in dict(point).items()}
    for place, cell in enumerate(run["cells"]):
        numbers |= {f"cells[{place}].{name}": cell[name] for name in ("severity", "errors", "count")}
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{value!r} as {name}")
    texts = (run["variant"], run["weights_sha256"], *(cell["corruption"] for cell in run["cells"]))
    if not all(isinstance(text, str) for text in texts) or not isinstance(run["attention"], dict):
        raise TypeError("a value of another kind")


def _reason(error: Exception) -> str:
    return f"no {error}" if isinstance(error, KeyError) else str(error)
