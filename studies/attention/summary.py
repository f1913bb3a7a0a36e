"""Tables and pictures of the study, made from its committed lines.

    python studies/attention/summary.py

Reads results/attention/fashion_mnist.jsonl and -cost.json, writes results/attention/prediction.json, the
pictures docs/assets/attention-*.svg, and the tables between their marks in docs/theory/when-it-helps.md.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

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
ROWS = 4  # that a condition must have to be asked what goes with what
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


def comparisons(lines: Lines, plan: Plan, name: str) -> dict[tuple[str, str, str], list[float]]:
    """Every row minus the one it stands against, seed by seed, where both were trained."""
    found = {}
    for section in plan.sections:
        for condition, row in product(section.conditions, section.rows):
            pairs = [
                (
                    lines.get(section.run(condition, row, seed)),
                    lines.get(section.run(condition, section.against, seed)),
                )
                for seed in range(section.seeds)
            ]
            own = [errors(one)[name] - errors(base)[name] for one, base in pairs if one and base]
            if own and row != section.against:
                found[section.name, condition, row] = own
    return found


def intervals(differences: Mapping[Any, Sequence[float]]) -> dict[Any, Interval]:
    """The mean of each, and its 95 % bootstrap interval.

    Three seeds say little of their own spread. What is drawn, as often as there are seeds, comes from the
    deviations of all comparisons from their means, scaled for the mean that each has lost.
    """
    deviations = {
        tuple(own): np.sqrt(len(own) / (len(own) - 1)) * (np.array(own) - fmean(own))
        for own in differences.values()
        if len(own) > 1
    }
    pool = np.concatenate(list(deviations.values())) if deviations else np.zeros(1)
    found = {}
    for key, own in differences.items():
        drawn = np.random.default_rng(0).choice(pool, (DRAWS, len(own))).mean(axis=1)
        low, high = np.quantile(drawn, [0.025, 0.975])
        found[key] = (fmean(own), fmean(own) - float(high), fmean(own) - float(low))
    return found


def table(lines: Lines, cost: Mapping[str, float], section: Section, apart: Mapping[Any, Interval]) -> str:
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
            difference = apart.get((section.name, condition, row))
            cells.append("" if difference is None else _shown(difference))
            cells.append(f"{own[0]['parameters']:,}")
            ms = cost.get(section.run(condition, row, 0).changes)
            cells.append("" if ms is None or base_cost is None else f"{ms / base_cost:.1f} x")
            text.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(text)


def attention_table(lines: Lines, section: Section) -> str:
    """Markdown: what the attention of every row looks like, mean over layers and images."""
    text = [f"| | {' | '.join(MEASURES.values())} |", f"|---|{'---:|' * len(MEASURES)}"]
    (condition,) = section.conditions
    for row in section.rows:
        runs = [section.run(condition, row, seed) for seed in range(section.seeds)]
        own = [lines[run]["attention"] for run in runs if run in lines]
        if own:
            cells = [
                _spread([one[name] for one in own], 1 if name == "effective_keys" else 3) for name in MEASURES
            ]
            text.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(text)


def _spread(values: Sequence[float], digits: int = 1) -> str:
    shown = f"{fmean(values):.{digits}f}"
    return shown + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def _shown(found: Interval) -> str:
    mean, low, high = found
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


def condition_of(changes: Mapping[str, Any]) -> str:
    """What a run has in common with those it may be compared with."""
    return json.dumps(
        {key: value for key, value in changes.items() if not key.startswith(ROW_KEYS)}, sort_keys=True
    )


@dataclass(frozen=True)
class Sample:
    """Numbers of the attention beside the errors: of rows, or of the seeds within rows.

    Args:
        conditions: Of each, a number.
        rows: Of each, a number; all of a row are drawn at once.
        values: "clean", "corrupted" and each of `MEASURES`, in standard deviations of a condition.
        names: Of the rows, as changes.
    """

    conditions: np.ndarray
    rows: np.ndarray
    values: Mapping[str, np.ndarray]
    names: Sequence[str]

    @classmethod
    def of(cls, lines: Lines, *, within_rows: bool = False, without_losses: bool = False) -> "Sample":
        """Rows, each the mean over its seeds; or what is left of runs without the means of row and seed.

        Args:
            lines: The runs; conditions with fewer than `ROWS` rows are left out, there is nothing to relate.
            within_rows: Seeds against one another, what rows differ in taken out, and what all rows have in
                common with the same seed, such as its weights and its order of images.
            without_losses: Leave out rows with ADL or another loss, which act on what is measured.
        """
        by_condition: dict[str, dict[str, dict[int, Mapping[str, Any]]]] = {}
        for run, line in lines.items():
            changes = json.loads(run.changes)
            if not (without_losses and acts_on_attention(changes)):
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
        every = [left.shape[1] for own, left in parts for _ in own]
        return cls(
            conditions=np.repeat(np.arange(len(parts)), [len(left) for left in stacked]),
            rows=np.repeat(np.arange(len(names)), every),
            values=dict(zip(("clean", "corrupted", *MEASURES), np.concatenate(stacked).T, strict=True)),
            names=names,
        )

    def residuals(self, measure: str, chosen: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """What a line of the clean error leaves of the measure and of the corruption error."""
        whole = np.arange(len(self.rows)) if chosen is None else chosen
        conditions = self.conditions[whole]
        clean, *others = (
            _centred(self.values[name][whole], conditions) for name in ("clean", measure, "corrupted")
        )
        size = float(clean @ clean)
        left = [values - clean * float(clean @ values) / size if size else values for values in others]
        return left[0], left[1]

    def correlation(self, measure: str) -> Interval:
        """Partial correlation, -1 to 1, and a bootstrap over the rows of each condition."""
        generator = np.random.default_rng(0)
        places = [np.flatnonzero(self.rows == row) for row in range(len(self.names))]
        together = [
            np.unique(self.rows[self.conditions == condition]) for condition in np.unique(self.conditions)
        ]
        drawn = []
        for _ in range(DRAWS):
            rows = [row for own in together for row in generator.choice(own, len(own))]
            drawn.append(
                _correlation(*self.residuals(measure, np.concatenate([places[row] for row in rows])))
            )
        low, high = np.nanquantile(drawn, [0.025, 0.975])
        return _correlation(*self.residuals(measure)), float(low), float(high)


def acts_on_attention(changes: Mapping[str, Any]) -> bool:
    """Whether a loss of the attention was trained with."""
    return changes.get("adl.enabled", True) or "study.regulariser" in changes


def _numbers(line: Mapping[str, Any]) -> list[float]:
    found = errors(line)
    return [found["clean"], found["corrupted"], *(line["attention"][name] for name in MEASURES)]


def _centred(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    sums = np.bincount(groups, weights=values, minlength=groups.max() + 1)
    return values - (sums / np.maximum(np.bincount(groups, minlength=groups.max() + 1), 1))[groups]


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    scale = float(np.sqrt((first @ first) * (second @ second)))
    return float(first @ second) / scale if scale else float("nan")


VIEWS: Mapping[str, Mapping[str, bool]] = {
    "rows": {},
    "rows without a loss on attention": {"without_losses": True},
    "seeds of a row": {"within_rows": True},
}
"""What is set against one another."""


def predictions(lines: Lines) -> dict[str, Any]:
    """Every measure, in each view."""
    found: dict[str, Any] = {}
    for view, how in VIEWS.items():
        sample = Sample.of(lines, **how)
        found[view] = {
            "rows": len(sample.names),
            "runs": len(sample.rows),
            "partial_correlation": {
                name: [round(value, 4) for value in sample.correlation(name)] for name in MEASURES
            },
        }
    return found


def prediction_table(found: Mapping[str, Any]) -> str:
    """Markdown of `predictions`."""
    heads = [f"{view} ({own['rows']} rows)" for view, own in found.items()]
    text = [f"| partial correlation with the corruption error | {' | '.join(heads)} |"]
    text.append(f"|---|{'---:|' * len(heads)}")
    for name, label in MEASURES.items():
        cells = (own["partial_correlation"][name] for own in found.values())
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
    apart = {name: intervals(comparisons(lines, plan, name)) for name in points}
    drawn: set[tuple[Run, Run]] = set()
    for section in plan.sections:
        for condition in section.conditions:
            pairs = {
                row: (section.run(condition, row, 0), section.run(condition, section.against, 0))
                for row in section.rows
                if (section.name, condition, row) in apart["clean"]
            }
            # several tables show the same comparison
            rows = [row for row, pair in pairs.items() if pair not in drawn]
            drawn.update(pairs.values())
            if not rows:
                continue
            heads.append((place, section.title + (f": {condition}" if condition else "")))
            place += 1
            for row in rows:
                labels.append(row)
                places.append(place)
                for name, own in points.items():
                    own.append(apart[name][section.name, condition, row])
                place += 1
            place += 0.6
    figure, axis = plt.subplots(figsize=(8.5, 0.19 * place + 0.9), constrained_layout=True)
    for (name, own), colour, shift in zip(points.items(), ("#e69f00", "#0072b2"), (0.18, -0.18), strict=True):
        means = np.array([mean for mean, _, _ in own])
        ends = np.abs(np.array([[low, high] for _, low, high in own]) - means[:, None]).T
        style = {"fmt": "o", "markersize": 3.5, "linewidth": 1.1, "color": colour}
        axis.errorbar(means, np.array(places) + shift, xerr=ends, label=f"{name} error", **style)
    for height, title in heads:
        axis.text(0.01, height, title, transform=axis.get_yaxis_transform(), va="center", weight="bold")
    axis.axvline(0, color="#6b6b6b", linewidth=0.8)
    axis.set_yticks(places, labels)
    axis.tick_params(axis="y", length=0)
    axis.set_ylim(place, -1)
    axis.set_xlabel("percentage points; left is better")
    axis.grid(axis="x", color="#00000018")
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="x", top=True, labeltop=True)
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
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
    """What the clean error leaves of ADL value, stability and corruption error, a point a row."""
    sample = Sample.of(lines)
    with_loss = np.array([acts_on_attention(json.loads(name)) for name in sample.names])
    figure, axes = plt.subplots(1, 2, figsize=(8.5, 3.6), sharey=True, constrained_layout=True)
    for axis, name in zip(axes, ("overlap", "stability"), strict=True):
        measured, left = sample.residuals(name)
        for chosen, colour, marker, label in (
            (~with_loss, "#e69f00", "o", "no loss on attention"),
            (with_loss, "#0072b2", "^", "ADL or another loss"),
        ):
            style = {"s": 22, "c": colour, "marker": marker, "alpha": 0.8, "linewidths": 0}
            axis.scatter(measured[chosen], left[chosen], label=label, **style)
        axis.set_xlabel(MEASURES[name])
        axis.set_title(f"partial correlation {_correlation(measured, left):+.2f}", fontsize=10)
        axis.axhline(0, color="#6b6b6b", linewidth=0.8)
        axis.axvline(0, color="#6b6b6b", linewidth=0.8)
        axis.grid(color="#00000012")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("corruption error")
    axes[0].legend(frameon=False, fontsize=8)
    figure.supxlabel("in standard deviations, less what the clean error explains", fontsize=9)
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
    apart = intervals(comparisons(lines, plan, "corrupted"))
    found = {section.name: table(lines, cost, section, apart) for section in plan.sections}
    found["attention"] = attention_table(lines, plan.sections[0])
    if is_complete(lines, plan):
        found["prediction"] = prediction_table(json.loads((RESULTS / "prediction.json").read_text()))
    return found


def is_complete(lines: Lines, plan: Plan) -> bool:
    """Whether every run is done: what relates rows to one another waits for that."""
    return all(run in lines for section in plan.sections for run in section.runs())


def main() -> None:
    mpl.rcParams.update({"svg.hashsalt": "tapadl", "font.size": 9, "font.family": "sans-serif"})
    plan = load_plan(PLAN)
    lines = load_lines(plan.name)
    if is_complete(lines, plan):
        (RESULTS / "prediction.json").write_text(json.dumps(predictions(lines), indent=1) + "\n")
        draw_predictions(lines, PICTURES / "attention-prediction.svg")
    draw_differences(lines, plan, PICTURES / "attention-differences.svg")
    draw_curves(lines, plan.sections[0], PICTURES / "attention-curves.svg")
    DOCUMENT.write_text(with_tables(DOCUMENT.read_text(), tables(lines, plan)))


if __name__ == "__main__":
    main()
