"""What goes with what: numbers of the attention beside the corruption error, over rows or over seeds."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from plan import MEASURES, Interval, Lines, condition_of, errors

DRAWS = 2000
ROWS = 4  # that a condition must have to be asked what goes with what

VIEWS: Mapping[str, Mapping[str, bool]] = {
    "all rows": {},
    "rows without TAP or another pooling": {"without_poolings": True},
    "rows without a loss on attention": {"without_losses": True},
    "seeds of a row": {"within_rows": True},
}
"""What is set against one another."""


def acts_on_attention(changes: Mapping[str, Any]) -> bool:
    """Whether a loss of the attention was trained with."""
    return bool(changes.get("adl.enabled", True)) or "study.regulariser" in changes


def pools(changes: Mapping[str, Any]) -> bool:
    """Whether tokens take in their neighbours before attention."""
    return bool(changes.get("tap.enabled", True)) or "study.pooling" in changes


def kind_of(changes: Mapping[str, Any]) -> tuple[str, str]:
    """The kind of pooling and of loss: TAP with three branches or four are no two independent findings."""
    pooling = changes.get("study.pooling", "TAP" if changes.get("tap.enabled", True) else "none")
    loss = changes.get("study.regulariser", "ADL" if changes.get("adl.enabled", True) else "none")
    return str(pooling), str(loss)


@dataclass(frozen=True)
class Sample:
    """Numbers of the attention beside the errors: of rows, or of the seeds within rows.

    Args:
        conditions: Of each, a number.
        units: Of each, a number; all of a unit are drawn at once: the rows of a kind, whatever their
            condition, or the seeds of a row.
        values: "clean", "corrupted" and each of `MEASURES`, in standard deviations of a condition.
        names: Of the rows, as changes.
    """

    conditions: np.ndarray
    units: np.ndarray
    values: Mapping[str, np.ndarray]
    names: Sequence[str]

    @classmethod
    def of(
        cls,
        lines: Lines,
        *,
        within_rows: bool = False,
        without_losses: bool = False,
        without_poolings: bool = False,
    ) -> "Sample":
        """Rows, each the mean over its seeds; or what is left of runs without the means of row and seed.

        Args:
            lines: The runs; conditions with fewer than `ROWS` rows are left out, there is nothing to relate.
            within_rows: Seeds against one another, what rows differ in taken out, and what all rows have in
                common with the same seed, such as its weights and its order of images.
            without_losses: Leave out rows with ADL or another loss, which act on what is measured.
            without_poolings: Leave out rows with TAP or another pooling, in whose keys neighbours are mixed.
        """
        by_condition: dict[str, dict[str, dict[int, Mapping[str, Any]]]] = {}
        for run, line in lines.items():
            changes = json.loads(run.changes)
            if (without_losses and acts_on_attention(changes)) or (without_poolings and pools(changes)):
                continue
            by_row = by_condition.setdefault(condition_of(changes), {})
            by_row.setdefault(run.changes, {})[run.seed] = line
        parts = []
        for by_row in by_condition.values():
            seeds = sorted(set.intersection(*(set(by_seed) for by_seed in by_row.values())))
            if len(by_row) < ROWS or not seeds or (within_rows and len(seeds) < 2):
                continue
            # rows, seeds, clean error and corruption error and measures
            cube = np.array([[_numbers(by_seed[seed]) for seed in seeds] for by_seed in by_row.values()])
            means = cube.mean(axis=1, keepdims=True)
            if within_rows:
                left = cube - means - cube.mean(axis=0, keepdims=True) + cube.mean(axis=(0, 1))
            else:
                left = means - means.mean(axis=0)
            parts.append((list(by_row), left / np.maximum(left.std(axis=(0, 1)), 1e-12)))
        stacked = [left.reshape(-1, left.shape[-1]) for _, left in parts]
        names = [name for own, _ in parts for name in own]
        kinds = [name if within_rows else kind_of(json.loads(name)) for name in names]
        numbers = {kind: number for number, kind in enumerate(dict.fromkeys(kinds))}
        every = [left.shape[1] for own, left in parts for _ in own]
        return cls(
            conditions=np.repeat(np.arange(len(parts)), [len(left) for left in stacked]),
            units=np.repeat([numbers[kind] for kind in kinds], every),
            values=dict(zip(("clean", "corrupted", *MEASURES), np.concatenate(stacked).T, strict=True)),
            names=names,
        )

    def residuals(
        self, measure: str, chosen: np.ndarray | None = None, *, given_clean: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """The measure and the corruption error within a condition, or what the clean error leaves of both."""
        whole = np.arange(len(self.units)) if chosen is None else chosen
        conditions = self.conditions[whole]
        clean, *others = (
            _centred(self.values[name][whole], conditions) for name in ("clean", measure, "corrupted")
        )
        size = float(clean @ clean)
        if given_clean and size:
            others = [values - clean * float(clean @ values) / size for values in others]
        return others[0], others[1]

    def correlation(self, measure: str, *, given_clean: bool = True) -> Interval:
        """Correlation, -1 to 1, and a bootstrap over the units."""
        generator = np.random.default_rng(0)
        places = [np.flatnonzero(self.units == unit) for unit in np.unique(self.units)]
        drawn = []
        for _ in range(DRAWS):
            chosen = np.concatenate([places[unit] for unit in generator.choice(len(places), len(places))])
            drawn.append(_correlation(*self.residuals(measure, chosen, given_clean=given_clean)))
        low, high = np.nanquantile(drawn, [0.025, 0.975])
        return (
            _correlation(*self.residuals(measure, given_clean=given_clean)),
            float(low),
            float(high),
        )


def _numbers(line: Mapping[str, Any]) -> list[float]:
    found = errors(line)
    return [found["clean"], found["corrupted"], *(line["attention"][name] for name in MEASURES)]


def _centred(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    sums = np.bincount(groups, weights=values, minlength=groups.max() + 1)
    return values - (sums / np.maximum(np.bincount(groups, minlength=groups.max() + 1), 1))[groups]


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    scale = float(np.sqrt((first @ first) * (second @ second)))
    return float(first @ second) / scale if scale else float("nan")


def predictions(lines: Lines) -> dict[str, Any]:
    """Every measure, in each view, as it is and with the clean error accounted for."""
    found: dict[str, Any] = {}
    for view, how in VIEWS.items():
        sample = Sample.of(lines, **how)
        found[view] = {
            "rows": len(sample.names),
            "units": len(np.unique(sample.units)),
            "runs": len(sample.units),
        } | {
            key: {
                name: [round(value, 4) for value in sample.correlation(name, given_clean=given_clean)]
                for name in MEASURES
            }
            for key, given_clean in (("correlation", False), ("partial_correlation", True))
        }
    return found


def prediction_table(found: Mapping[str, Any]) -> str:
    """Markdown of `predictions`."""
    text = ["| correlation with the corruption error | as it is | given the clean error |", "|---|---:|---:|"]
    for view, own in found.items():
        # the seeds of a row are drawn together, and rows of a kind are
        drawn = "" if own["units"] == own["rows"] else f" of {own['units']} kinds"
        text.append(f"| **{view}** ({own['rows']} rows{drawn}) | | |")
        for name, label in MEASURES.items():
            cells = (own[key][name] for key in ("correlation", "partial_correlation"))
            shown = (f"{mean:+.2f} ({low:+.2f} to {high:+.2f})" for mean, low, high in cells)
            text.append(f"| {label} | {' | '.join(shown)} |")
    return "\n".join(text)
