"""Tables and pictures of the study, made from its committed lines.

    python studies/attention/summary.py

Reads results/attention/fashion_mnist.jsonl and -cost.json, writes results/attention/prediction.json, the
pictures docs/assets/attention-*.svg, and the tables between their marks in docs/theory/when-it-helps.md.
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import bootstrap

from plan import RESULTS, Plan, Run, Section, load_lines, load_plan
from tapadl.corruptions import CORRUPTIONS

ROOT = Path(__file__).parents[2]
PLAN = Path(__file__).with_name("fashion_mnist.yaml")
DOCUMENT = ROOT / "docs" / "theory" / "when-it-helps.md"
PICTURES = ROOT / "docs" / "assets"
GROUPS = ("noise", "blur", "weather", "digital")
MEASURES = {
    "overlap": "ADL value (overlap, tau 2)",
    "cosine": "overlap without threshold",
    "gini": "Gini of received attention",
    "effective_keys": "effective number of keys",
    "stability": "stability (cosine, clean - corrupted)",
    "divergence": "divergence (Jensen-Shannon)",
}
# What a row may change; other settings are the condition it is trained under.
ROW_KEYS = ("tap.", "adl.", "study.")
DRAWS = 2000
# Okabe and Ito's, which all can tell apart; gray first.
COLOURS = ("#6b6b6b", "#56b4e9", "#e69f00", "#0072b2", "#b0b0b0")

Lines = Mapping[Run, Mapping[str, Any]]
Interval = tuple[float, float, float]
"""Mean, and the ends of its 95 % interval."""


def load_cost(name: str) -> dict[str, float]:
    """Milliseconds a step of what was measured."""
    rows = json.loads((RESULTS / f"{name}-cost.json").read_text())
    return {Run.of(row["changes"], 0).changes: row["ms"] for row in rows}


def errors(line: Mapping[str, Any]) -> dict[str, float]:
    """Percent: clean, the mean over the corruptions, and by their group."""
    by_name = line["corruption_error"]
    groups = {
        group: fmean(error for name, error in by_name.items() if CORRUPTIONS[name].group == group)
        for group in GROUPS
    }
    found = {"clean": line["clean_error"], "corrupted": fmean(by_name.values()), **groups}
    return {name: 100 * value for name, value in found.items()}


def interval(values: Sequence[float]) -> Interval:
    """The mean of paired differences, and a percentile bootstrap over the seeds."""
    if len(set(values)) == 1:
        return (values[0],) * 3
    found = bootstrap((values,), np.mean, n_resamples=9999, method="percentile", rng=0)
    low, high = found.confidence_interval
    return fmean(values), float(low), float(high)


def difference(lines: Lines, section: Section, condition: str, row: str, name: str) -> Interval | None:
    """A row minus the one it stands against, seed by seed; None while there are no such pairs."""
    pairs = [
        (
            lines.get(section.run(condition, row, seed)),
            lines.get(section.run(condition, section.against, seed)),
        )
        for seed in range(section.seeds)
    ]
    found = [errors(one)[name] - errors(base)[name] for one, base in pairs if one and base]
    return interval(found) if found else None


def table(lines: Lines, cost: Mapping[str, float], section: Section) -> str:
    """Markdown: a row of errors, then its difference to the row it stands against."""
    columns = ("clean", "corrupted", *GROUPS)
    head = ["", *columns, f"corrupted - {section.against}", "parameters", "step"]
    text = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    for condition in section.conditions:
        if condition:
            text.append(f"| **{condition}** |{' |' * (len(head) - 1)}")
        base_cost = cost.get(section.run(condition, section.against, 0).changes)
        for row in section.rows:
            own = [
                line
                for seed in range(section.seeds)
                if (line := lines.get(section.run(condition, row, seed))) is not None
            ]
            if not own:
                continue
            found = [errors(line) for line in own]
            cells = [_spread([one[name] for one in found]) for name in columns]
            apart = difference(lines, section, condition, row, "corrupted")
            cells.append("" if row == section.against or apart is None else _shown(apart))
            cells.append(f"{own[0]['parameters']:,}")
            ms = cost.get(section.run(condition, row, 0).changes)
            cells.append("" if ms is None or base_cost is None else f"{ms / base_cost:.2f} x")
            text.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(text)


def _spread(values: Sequence[float]) -> str:
    return f"{fmean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def _shown(found: Interval) -> str:
    mean, low, high = found
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


def condition_of(changes: Mapping[str, Any]) -> str:
    """What a run has in common with those it may be compared with."""
    return json.dumps(
        {key: value for key, value in changes.items() if not key.startswith(ROW_KEYS)}, sort_keys=True
    )


class Prediction:
    """Whether a number of the attention tells the corruption error once the clean error is known.

    All are taken relative to the mean of a group, then what the clean error explains by a line is taken out
    of both; what is left is correlated. The interval draws whole rows of the study, all seeds of one at once.

    Args:
        lines: The runs.
        within: "condition", runs of one data set, length and model against one another; or "row", the seeds
            of one row against one another.
    """

    def __init__(self, lines: Sequence[Mapping[str, Any]], within: str) -> None:
        group: Callable[[Mapping[str, Any]], str] = (
            (lambda line: condition_of(line["changes"]))
            if within == "condition"
            else (lambda line: json.dumps(line["changes"], sort_keys=True))
        )
        by_group = defaultdict(list)
        for line in lines:
            by_group[group(line)].append(line)
        kept = [line for own in by_group.values() if len(own) > 1 for line in own]
        self.groups = np.unique([group(line) for line in kept], return_inverse=True)[1]
        rows = [json.dumps(line["changes"], sort_keys=True) for line in kept]
        self.rows = np.unique(rows, return_inverse=True)[1]
        self.clean = np.array([errors(line)["clean"] for line in kept])
        self.corrupted = np.array([errors(line)["corrupted"] for line in kept])
        self.measured = {name: np.array([line["attention"][name] for line in kept]) for name in MEASURES}

    def residuals(self, measure: str, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the clean error leaves of the measure and of the corruption error."""
        groups = self.groups[chosen]
        clean, *others = (
            _centred(values[chosen], groups)
            for values in (self.clean, self.measured[measure], self.corrupted)
        )
        size = float(clean @ clean)
        left = [values - clean * float(clean @ values) / size for values in others]
        return left[0], left[1]

    def correlation(self, measure: str) -> Interval:
        """Partial correlation, -1 to 1, with its interval."""
        whole = np.arange(len(self.rows))
        generator = np.random.default_rng(0)
        places = [np.flatnonzero(self.rows == row) for row in range(self.rows.max() + 1)]
        drawn = []
        for _ in range(DRAWS):
            chosen = np.concatenate(
                [places[row] for row in generator.integers(len(places), size=len(places))]
            )
            drawn.append(_correlation(*self.residuals(measure, chosen)))
        low, high = np.nanquantile(drawn, [0.025, 0.975])
        return _correlation(*self.residuals(measure, whole)), float(low), float(high)


def _centred(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    sums = np.bincount(groups, weights=values, minlength=groups.max() + 1)
    return values - (sums / np.maximum(np.bincount(groups, minlength=groups.max() + 1), 1))[groups]


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    scale = float(np.sqrt((first @ first) * (second @ second)))
    return float(first @ second) / scale if scale else float("nan")


def predictions(lines: Lines) -> dict[str, Any]:
    """Every measure, between the rows of a condition and between the seeds of a row."""
    found: dict[str, Any] = {}
    for within in ("condition", "row"):
        prediction = Prediction(list(lines.values()), within)
        found[within] = {
            "runs": len(prediction.rows),
            "partial_correlation": {
                name: [round(value, 4) for value in prediction.correlation(name)] for name in MEASURES
            },
        }
    return found


def prediction_table(found: Mapping[str, Any]) -> str:
    """Markdown of `predictions`."""
    heads = [
        f"between rows, {found['condition']['runs']} runs",
        f"between seeds, {found['row']['runs']} runs",
    ]
    text = [f"| partial correlation with the corruption error | {' | '.join(heads)} |", "|---|---:|---:|"]
    for name, label in MEASURES.items():
        cells = (found[within]["partial_correlation"][name] for within in ("condition", "row"))
        shown = (f"{mean:+.2f} ({low:+.2f} to {high:+.2f})" for mean, low, high in cells)
        text.append(f"| {label} | {' | '.join(shown)} |")
    return "\n".join(text)


def draw_differences(lines: Lines, plan: Plan, path: Path) -> None:
    """Corrupted and clean error of every row minus the row it stands against, with intervals."""
    labels: list[str] = []
    points: dict[str, list[Interval]] = {"clean": [], "corrupted": []}
    places: list[float] = []
    place = 0.0
    heads: list[tuple[float, str]] = []
    for section in plan.sections:
        for condition in section.conditions:
            rows = [
                row
                for row in section.rows
                if row != section.against and difference(lines, section, condition, row, "clean")
            ]
            if not rows:
                continue
            heads.append((place, section.title + (f": {condition}" if condition else "")))
            place += 1
            for row in rows:
                labels.append(row)
                places.append(place)
                for name, own in points.items():
                    found = difference(lines, section, condition, row, name)
                    assert found is not None
                    own.append(found)
                place += 1
            place += 0.6
    figure, axis = plt.subplots(figsize=(8.5, 0.19 * place + 0.9), constrained_layout=True)
    for (name, own), colour, shift in zip(points.items(), ("#e69f00", "#0072b2"), (0.18, -0.18), strict=True):
        means = np.array([mean for mean, _, _ in own])
        ends = np.abs(np.array([[low, high] for _, low, high in own]) - means[:, None]).T
        style = {"fmt": "o", "markersize": 3.5, "linewidth": 1.1, "color": colour}
        axis.errorbar(means, np.array(places) + shift, xerr=ends, label=f"{name} error", **style)
    for height, title in heads:
        axis.text(
            -0.01, height, title, transform=axis.get_yaxis_transform(), ha="right", va="center", weight="bold"
        )
    axis.axvline(0, color="#6b6b6b", linewidth=0.8)
    axis.set_yticks(places, labels)
    axis.tick_params(axis="y", length=0)
    axis.set_ylim(place, -1)
    axis.set_xlabel("percentage points against the row it is compared with; left is better")
    axis.grid(axis="x", color="#00000018")
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="x", top=True, labeltop=True)
    axis.legend(loc="upper right", frameon=False)
    _save(figure, path)


def draw_curves(lines: Lines, section: Section, path: Path) -> None:
    """Validation error after every epoch, a line a row, the mean over its seeds."""
    figure, axis = plt.subplots(figsize=(6.5, 3.4), constrained_layout=True)
    (condition,) = section.conditions
    for row, colour in zip(section.rows, COLOURS, strict=True):
        runs = [section.run(condition, row, seed) for seed in range(section.seeds)]
        curves = [lines[run]["validation_error"] for run in runs if run in lines]
        if curves:
            epochs = range(1, len(curves[0]) + 1)
            by_epoch = zip(*([error for _, error in curve] for curve in curves), strict=True)
            means = [100 * fmean(at_epoch) for at_epoch in by_epoch]
            style = "--" if "equal time" in row else "-"
            axis.plot(epochs, means, style, color=colour, label=row, linewidth=1.6)
    axis.set_xlabel("epoch")
    axis.set_ylabel("validation error, percent")
    axis.grid(axis="y", color="#00000018")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    _save(figure, path)


def draw_predictions(lines: Lines, path: Path) -> None:
    """What the clean error leaves of ADL value, stability and corruption error, a point a run."""
    prediction = Prediction(list(lines.values()), "condition")
    figure, axes = plt.subplots(1, 2, figsize=(8.5, 3.4), sharey=True, constrained_layout=True)
    for axis, name in zip(axes, ("overlap", "stability"), strict=True):
        measured, left = prediction.residuals(name, np.arange(len(prediction.rows)))
        axis.scatter(measured, left, s=9, c="#0072b2", alpha=0.6, linewidths=0)
        axis.set_xlabel(MEASURES[name])
        axis.set_title(f"partial correlation {_correlation(measured, left):+.2f}", fontsize=10)
        axis.axhline(0, color="#6b6b6b", linewidth=0.8)
        axis.axvline(0, color="#6b6b6b", linewidth=0.8)
        axis.grid(color="#00000012")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("corruption error, points")
    figure.supxlabel("each less what the clean error of the run explains", fontsize=9)
    _save(figure, path)


def _save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None}, facecolor="white")
    plt.close(figure)


def with_tables(text: str, tables: Mapping[str, str]) -> str:
    """A document with each table between its marks."""
    for name, content in tables.items():
        pattern = re.compile(f"(<!-- table {re.escape(name)} -->\n).*?(<!-- end -->)", flags=re.DOTALL)
        text = pattern.sub(lambda found, content=content: f"{found[1]}{content}\n{found[2]}", text)
    return text


def tables(lines: Lines, plan: Plan) -> dict[str, str]:
    """Every table of the document."""
    cost = load_cost(plan.name)
    found = {section.name: table(lines, cost, section) for section in plan.sections}
    return found | {"prediction": prediction_table(json.loads((RESULTS / "prediction.json").read_text()))}


def main() -> None:
    mpl.rcParams.update({"svg.hashsalt": "tapadl", "font.size": 9, "font.family": "sans-serif"})
    plan = load_plan(PLAN)
    lines = load_lines(plan.name)
    (RESULTS / "prediction.json").write_text(json.dumps(predictions(lines), indent=1) + "\n")
    draw_differences(lines, plan, PICTURES / "attention-differences.svg")
    draw_curves(lines, plan.sections[0], PICTURES / "attention-curves.svg")
    draw_predictions(lines, PICTURES / "attention-prediction.svg")
    DOCUMENT.write_text(with_tables(DOCUMENT.read_text(), tables(lines, plan)))


if __name__ == "__main__":
    main()
