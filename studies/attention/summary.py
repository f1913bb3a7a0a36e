"""Tables and pictures of the study, made from its committed lines.

    python studies/attention/summary.py

Reads results/attention/fashion_mnist.jsonl and -cost.json, writes results/attention/prediction.json, the
pictures docs/assets/attention-*.svg, and the tables between their marks in docs/theory/when-it-helps.md.
"""

import json
import re
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

from plan import (
    GROUPS,
    LIGHT,
    MEASURES,
    RESULTS,
    Interval,
    Lines,
    Plan,
    Run,
    Section,
    condition_of,
    errors,
    load_lines,
    load_plan,
)
from relations import Sample, acts_on_attention, prediction_table, predictions

ROOT = Path(__file__).parents[2]
PLAN = Path(__file__).with_name("fashion_mnist.yaml")
DOCUMENT = ROOT / "docs" / "theory" / "when-it-helps.md"
PICTURES = ROOT / "docs" / "assets"
DRAWS = 2000
# Okabe and Ito's, which all can tell apart; gray first.
COLOURS = ("#6b6b6b", "#56b4e9", "#e69f00", "#0072b2", "#b0b0b0")


def load_cost(name: str) -> dict[str, float]:
    """Milliseconds a step of what was measured."""
    rows = json.loads((RESULTS / f"{name}-cost.json").read_text())
    return {Run.of(row["changes"], 0).changes: row["ms"] for row in rows}


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


def deviations(lines: Lines, name: str) -> np.ndarray:
    """What the means of row and seed leave of the error of every run, within its condition.

    Scaled for the means that are lost, so that their spread is that of a run.
    """
    by_condition: dict[str, list[Run]] = {}
    for run in lines:
        by_condition.setdefault(condition_of(json.loads(run.changes)), []).append(run)
    found = [np.zeros(1)]
    for runs in by_condition.values():
        known = [[run.changes for run in runs], [run.seed for run in runs]]
        design = np.concatenate(
            [np.equal.outer(own, list(dict.fromkeys(own))).astype(float) for own in map(np.array, known)],
            axis=1,
        )
        values = np.array([errors(lines[run])[name] for run in runs])
        fit, _, rank, _ = np.linalg.lstsq(design, values)
        if len(runs) > rank:
            found.append((values - design @ fit) * np.sqrt(len(runs) / (len(runs) - rank)))
    return np.concatenate(found[1:] or found)


def intervals(differences: Mapping[Any, Sequence[float]], pool: np.ndarray) -> dict[Any, Interval]:
    """The mean of each, and its 95 % bootstrap interval.

    Three seeds say little of their own spread. What is drawn, as often as both rows have seeds, comes from
    the deviations of all runs.
    """
    found = {}
    for key, own in differences.items():
        drawn = np.random.default_rng(0).choice(pool, (2, DRAWS, len(own))).mean(axis=2)
        low, high = np.quantile(drawn[0] - drawn[1], [0.025, 0.975])
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


def pairs_table(lines: Lines, section: Section, pool: Mapping[str, np.ndarray]) -> str:
    """Markdown: every row minus plain, and minus plain of equal time, seed by seed."""
    names = {"clean": "clean", "corrupted": "corrupted", "eleven": f"corrupted, without {', '.join(LIGHT)}"}
    text = [f"| | {' | '.join(names.values())} |", f"|---|{'---:|' * len(names)}"]
    (condition,) = section.conditions
    for against in (section.against, "plain, equal time"):
        for row in section.rows:
            if row in (section.against, against):
                continue
            pairs = [
                (lines[section.run(condition, row, seed)], lines[section.run(condition, against, seed)])
                for seed in range(section.seeds)
            ]
            cells = []
            for name in names:
                own = [errors(one)[name] - errors(other)[name] for one, other in pairs]
                (interval,) = intervals({row: own}, pool[name]).values()
                cells.append(f"{_shown(interval)}, {sum(value < 0 for value in own)} of {len(own)}")
            text.append(f"| {row} - {against} | {' | '.join(cells)} |")
    return "\n".join(text)


def corruptions_table(lines: Lines, section: Section) -> str:
    """Markdown: by corruption every row minus the one it stands against, and how many seeds are lower."""
    (condition,) = section.conditions
    rows = [row for row in section.rows if row != section.against]
    heads = [section.against, *(f"{row} - {section.against}" for row in rows)]
    text = [f"| | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    by_row = {
        row: [lines[section.run(condition, row, seed)]["corruption_error"] for seed in range(section.seeds)]
        for row in section.rows
    }
    for name in by_row[section.against][0]:
        base = [100 * one[name] for one in by_row[section.against]]
        cells = [_spread(base)]
        for row in rows:
            own = [100 * one[name] - other for one, other in zip(by_row[row], base, strict=True)]
            mean = round(fmean(own), 1) + 0.0
            cells.append(f"{mean:+.1f}, {sum(value < 0 for value in own)} of {len(own)}")
        text.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")
    return "\n".join(text)


def _spread(values: Sequence[float], digits: int = 1) -> str:
    shown = f"{fmean(values):.{digits}f}"
    return shown + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def _shown(found: Interval) -> str:
    mean, low, high = (round(value, 1) + 0.0 for value in found)  # no -0.0
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


def draw_differences(lines: Lines, plan: Plan, path: Path) -> None:
    """Corrupted and clean error of every row minus the row it stands against, with intervals."""
    labels: list[str] = []
    points: dict[str, list[Interval]] = {"clean": [], "corrupted": []}
    places: list[float] = []
    place = 0.0
    heads: list[tuple[float, str]] = []
    apart = {name: intervals(comparisons(lines, plan, name), deviations(lines, name)) for name in points}
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
    """ADL value and stability against the corruption error, and what the clean error leaves of both."""
    sample = Sample.of(lines)
    with_loss = np.array([acts_on_attention(json.loads(name)) for name in sample.names])
    figure, panels = plt.subplots(2, 2, figsize=(8.5, 6.4), sharey="row", constrained_layout=True)
    for axes, given_clean in zip(panels, (False, True), strict=True):
        for axis, name in zip(axes, ("overlap", "stability"), strict=True):
            measured, left = sample.residuals(name, given_clean=given_clean)
            for chosen, colour, marker, label in (
                (~with_loss, "#e69f00", "o", "no loss on attention"),
                (with_loss, "#0072b2", "^", "ADL or another loss"),
            ):
                style = {"s": 22, "c": colour, "marker": marker, "alpha": 0.8, "linewidths": 0}
                axis.scatter(measured[chosen], left[chosen], label=label, **style)
            mean, low, high = sample.correlation(name, given_clean=given_clean)
            axis.set_title(f"correlation {mean:+.2f} ({low:+.2f} to {high:+.2f})", fontsize=10)
            axis.set_xlabel(MEASURES[name])
            axis.axhline(0, color="#6b6b6b", linewidth=0.8)
            axis.axvline(0, color="#6b6b6b", linewidth=0.8)
            axis.grid(color="#00000012")
            axis.spines[["top", "right"]].set_visible(False)
        axes[0].set_ylabel("corruption error" + (", given the clean error" if given_clean else ""))
    panels[0, 0].legend(frameon=False, fontsize=8)
    figure.supxlabel("in standard deviations of a condition, a point a row", fontsize=9)
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
    pool = {name: deviations(lines, name) for name in ("clean", "corrupted", "eleven")}
    apart = intervals(comparisons(lines, plan, "corrupted"), pool["corrupted"])
    found = {section.name: table(lines, cost, section, apart) for section in plan.sections}
    main = plan.sections[0]
    found["attention"] = attention_table(lines, main)
    (losses,) = (section for section in plan.sections if section.name == "regularisers")
    found["attention-regularisers"] = attention_table(lines, losses)
    found["pairs"] = pairs_table(lines, main, pool)
    found["corruptions"] = corruptions_table(lines, main)
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
