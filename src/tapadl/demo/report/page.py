"""The page that a demo leaves behind: one HTML file that needs nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tapadl.data.atomic import write_atomically
from tapadl.demo.attention import AttentionExample, CorruptionSample, ReportExamples
from tapadl.demo.report import findings as words
from tapadl.demo.report.attention_panels import attention_panel, attention_plots, attention_tables
from tapadl.demo.report.findings import BASELINE, Estimate, Findings, variant_label
from tapadl.demo.report.pictures import colour_stops, sheet_uri
from tapadl.evaluation.report.charts import (
    DotChart,
    Frame,
    Line,
    dot_chart,
    line_chart,
    nice_axis,
    nice_ticks,
)
from tapadl.evaluation.report.environment import page_environment
from tapadl.evaluation.report.words import corruption_label, fact_lines

TEMPLATE = "report.html.j2"
PAPER = "https://arxiv.org/abs/2303.11126"


def write_report(results: Mapping[str, Any], examples: ReportExamples | None, path: str | Path) -> None:
    """Write the page of a demo, all of it or nothing.

    Args:
        results: What `DemoResult.to_json` gives, or `results.json` holds. Attention numbers, training
            curves, groups and spreads may be missing; the page then leaves them out.
        examples: Pictures and attention to show; None for a page of numbers.
        path: The file, usually `report.html`.

    Raises:
        ValueError: If there is no run in the results.
        OSError: If the file cannot be written.

    Example:
        >>> import tempfile
        >>> run = {
        ...     "variant": "plain", "seed": 0, "parameters": 1, "epochs": 1.0, "steps": 1,
        ...     "training_seconds": 1.0, "weights_sha256": "0", "validation_error": 0.2,
        ...     "clean_error": 0.2, "mean_corruption_error": 0.3,
        ...     "cells": [{"corruption": "fog", "severity": 1, "errors": 3, "count": 10}],
        ... }
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_report({"runs": [run]}, None, Path(folder) / "report.html")
        ...     (Path(folder) / "report.html").read_text()[:15]
        '<!doctype html>'
    """
    write_atomically(path, render_report(results, examples).encode())


def render_report(results: Mapping[str, Any], examples: ReportExamples | None) -> str:
    """The page as text; see `write_report`."""
    environment = page_environment("tapadl.demo.report")
    environment.filters.update(label=variant_label)
    environment.globals.update(style=style_of)
    return environment.get_template(TEMPLATE).render(
        _content(Findings(results), examples or ReportExamples())
    )


def style_of(variant: str) -> str:
    """The CSS class that gives a variant its colour."""
    known = list(words.VARIANT_LABELS)
    return f"v{known.index(variant) if variant in known else len(known)}"


@dataclass(frozen=True)
class Tile:
    """One comparison in the headline: errors of a few variants, their difference, what it allows to say."""

    title: str
    bars: tuple[tuple[str, Estimate], ...]
    difference: Estimate | None
    verdict: str


@dataclass(frozen=True)
class CorruptionCard:
    """One corruption: error against severity above the images themselves."""

    name: str
    chart: Markup
    sheet: str
    alt: str
    inset: tuple[float, float]


def _content(findings: Findings, examples: ReportExamples) -> dict[str, Any]:
    results = findings.results
    shown = _compared(findings)
    return {
        "findings": findings,
        "results": results,
        "paper": PAPER,
        "compared": shown,
        "tiles": [_tile(findings, shown, metric) for metric in ("mean_corruption_error", "clean_error")],
        "metric_labels": words.METRIC_LABELS,
        "dots": _dots(findings),
        "table": findings.table(),
        "cards": _cards(findings, examples.samples),
        "sample_names": examples.samples[0].class_names if examples.samples else (),
        "panels": [_panel(example, shown) for example in examples.attention],
        "panel_seed": examples.seed,
        "explorer": examples.explorer,
        "num_layers": _num_layers(examples.attention),
        "colour_stops": colour_stops() if examples.attention else (),
        "plots": attention_plots(findings, style_of),
        "with_adl": any("adl" in variant for variant in findings.variants),
        "attention_tables": attention_tables(findings),
        "attention_setup": next((run["attention"] for run in results["runs"] if run.get("attention")), None),
        "training_chart": _training_chart(findings),
        "facts": [
            (title, fact_lines(results[key]))
            for key, title in (
                ("settings", "Settings"),
                ("corruptions", "Corruptions"),
                ("versions", "Versions"),
                ("hardware", "Hardware"),
            )
            if results.get(key)
        ],
    }


def _compared(findings: Findings) -> list[str]:
    """The pair that the headline and the attention pictures are about, or all there is."""
    return [BASELINE, findings.protagonist] if findings.protagonist else findings.variants[:1]


def _tile(findings: Findings, shown: Sequence[str], metric: str) -> Tile:
    found = [(variant, findings.error(variant, metric)) for variant in shown]
    known = [(variant, value) for variant, value in found if value is not None]
    difference = findings.difference(shown[1], metric) if len(shown) > 1 else None
    return Tile(
        title={
            "mean_corruption_error": "Errors on corrupted images",
            "clean_error": "Errors on clean images",
        }[metric],
        bars=tuple(known),
        difference=difference,
        verdict=words.verdict(difference),
    )


def _dots(findings: Findings) -> DotChart:
    rows = []
    for metric in findings.metrics:
        found = [(variant, findings.error(variant, metric)) for variant in findings.variants]
        values = [
            (variant_label(variant), style_of(variant), 100 * value.mean, _times_100(value.std))
            for variant, value in found
            if value is not None
        ]
        rows.append((words.METRIC_LABELS[metric], values))
    return dot_chart(rows, unit="%")


def _cards(findings: Findings, samples: Sequence[CorruptionSample]) -> list[CorruptionCard]:
    by_name = {sample.corruption: sample for sample in samples}
    cells = findings.cells_of_corruptions()
    return [
        _card(name, severities, _severity_lines(findings, name, severities), by_name.get(name))
        for name, severities in cells.items()
    ]


def _severity_lines(findings: Findings, name: str, severities: Sequence[int]) -> list[Line]:
    columns = [("clean", 0), *((name, severity) for severity in severities)]
    lines = []
    for variant in findings.variants:
        found = [findings.cell_error(variant, *column) for column in columns]
        known = [(float(place), value) for place, value in enumerate(found) if value is not None]
        spreads = [_times_100(value.std) for _, value in known]
        lines.append(
            Line(
                variant_label(variant),
                style_of(variant),
                [place for place, _ in known],
                [100 * value.mean for _, value in known],
                [spread for spread in spreads if spread is not None] if None not in spreads else None,
            )
        )
    return lines


def _card(
    name: str,
    severities: Sequence[int],
    lines: Sequence[Line],
    sample: CorruptionSample | None,
) -> CorruptionCard:
    label = corruption_label(name)
    highest = max(
        (
            mean + spread
            for line in lines
            for mean, spread in zip(line.means, line.spreads or [0.0] * len(line.means), strict=True)
        ),
        default=1.0,
    )
    ticks = [(0.0, "clean"), *((float(place), str(s)) for place, s in enumerate(severities, start=1))]
    frame = Frame(
        alt=f"Error against severity under {label}, one line a variant.",
        x_range=(-0.5, len(severities) + 0.5),
        x_ticks=ticks,
        y_ticks=nice_axis(0.0, highest),
        unit="%",
        x_name="severity",
        height=185,
    )
    fits = sample is not None and sample.severities == (0, *severities)
    return CorruptionCard(
        name=label,
        chart=line_chart(lines, frame),
        sheet=sheet_uri(sample.images) if sample is not None and fits else "",
        alt=f"{label}: {', '.join(sample.class_names)}, clean and at rising severity." if sample else "",
        # the columns of images stand below their points
        inset=(100 * frame.left / frame.width, 100 * frame.right / frame.width),
    )


def _panel(example: AttentionExample, shown: Sequence[str]) -> Any:
    return attention_panel(example, [variant for variant in shown if variant in example.looks])


def _num_layers(examples: Sequence[AttentionExample]) -> int:
    return max(
        (len(look.attention) for example in examples for pair in example.looks.values() for look in pair),
        default=0,
    )


def _training_chart(findings: Findings) -> Markup | None:
    lines = []
    for variant in findings.variants:
        curves = [run["curve"] for run in findings.runs(variant) if run.get("curve")]
        if not curves:
            continue
        # variants differ in length; the seeds of one variant do not, unless equal time made them
        length = min(len(curve) for curve in curves)
        points = [Estimate.of([curve[place]["loss"] for curve in curves]) for place in range(length)]
        steps = [sum(curve[place]["step"] for curve in curves) / len(curves) for place in range(length)]
        spreads = [point.std for point in points if point.std is not None]
        lines.append(
            Line(
                variant_label(variant),
                style_of(variant),
                steps,
                [point.mean for point in points],
                spreads if len(spreads) == length else None,
            )
        )
    if not lines:
        return None
    last = max(line.xs[-1] for line in lines)
    low, high = (pick(mean for line in lines for mean in line.means) for pick in (min, max))
    frame = Frame(
        alt="Training loss against optimizer steps, one line a variant.",
        x_range=(0, last),
        x_ticks=[(step, f"{step:,.0f}") for step in nice_ticks(0, last, count=7)[1:]],
        y_ticks=nice_axis(low, high, count=6),
        width=900,
        height=260,
        dots=False,
    )
    return line_chart(lines, frame)


def _times_100(value: float | None) -> float | None:
    return None if value is None else 100 * value
