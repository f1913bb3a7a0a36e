"""The report as one HTML file that needs nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from tapadl.data.atomic import write_atomically
from tapadl.evaluation.benchmark_result import EvaluationResult
from tapadl.evaluation.compare import Comparison, compare
from tapadl.evaluation.report import conditions
from tapadl.evaluation.report.charts import DotChart, nice_axis, tick_text
from tapadl.evaluation.report.environment import page_environment
from tapadl.evaluation.report.figures import (
    Figure,
    calibration_figures,
    corruption_radar,
    perturbation_dots,
    severity_curves,
)
from tapadl.evaluation.report.findings import BenchmarkFindings, Headline, findings_of
from tapadl.evaluation.report.tables import (
    ReportTable,
    comparison_table,
    corruption_table,
    metric_table,
    models_table,
    overview_table,
)
from tapadl.evaluation.report.text import render_text

TEMPLATE = "evaluation.html.j2"


def write_report(
    results: Sequence[EvaluationResult], page: Path, text: Path, *, comparison: Comparison | None = None
) -> None:
    """Write the report of an evaluation, or of several side by side, as a page and as Markdown.

    Args:
        results: One, or several with the reference first.
        page: The HTML file: one file, no network.
        text: The Markdown file with the same numbers.
        comparison: Of these results, if it was made before; several are compared otherwise.

    Raises:
        ValueError: If there is no result, or several that cannot be compared; the message says why.
        OSError: If a file cannot be written.
    """
    if not results:
        raise ValueError("expected at least one result to report, got none")
    if comparison is None and len(results) > 1:
        comparison = compare(results)
    write_atomically(page, render_page(results, comparison).encode())
    write_atomically(text, render_text(results, comparison).encode())


def render_page(results: Sequence[EvaluationResult], comparison: Comparison | None) -> str:
    """The page as text; see `write_report`."""
    models, all_findings = findings_of(results, comparison)
    environment = page_environment("tapadl.evaluation.report")
    return environment.get_template(TEMPLATE).render(
        # for the last line of the page
        results={"versions": results[0].versions, "created": max(result.created for result in results)},
        models=models,
        left_out=() if comparison is None else comparison.left_out,
        overview=overview_table(all_findings) if len(all_findings) > 1 else None,
        sections=[_section(findings) for findings in all_findings],
        baseline_note=conditions.baseline_note(all_findings),
        compared=conditions.COMPARED,
        facts=[(model, conditions.model_facts(model.result)) for model in models],
    )


@dataclass(frozen=True)
class Tile:
    """A headline metric with bars on one scale from 0."""

    headline: Headline
    widths: tuple[float, ...]
    scale: tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """What the page shows of one benchmark."""

    findings: BenchmarkFindings
    title: str
    facts: list[tuple[str, str]]
    notices: list[str]
    tiles: list[Tile]
    comparisons: list[ReportTable]
    curves: list[Figure]
    radar: Markup | None
    across_models: ReportTable | None
    corruption_tables: list[ReportTable]
    dots: list[tuple[str, str, DotChart]]
    calibration: list[Figure]
    metrics: ReportTable


def _section(findings: BenchmarkFindings) -> Section:
    several = len(findings.models) > 1
    return Section(
        findings=findings,
        title=conditions.benchmark_title(findings.name),
        facts=conditions.benchmark_facts(findings),
        notices=conditions.notices(findings),
        tiles=[_tile(headline) for headline in findings.headlines()],
        comparisons=[comparison_table(findings, comparison) for comparison in findings.comparisons],
        curves=severity_curves(findings),
        radar=corruption_radar(findings),
        across_models=models_table(findings) if several and findings.corruptions else None,
        corruption_tables=[
            corruption_table(findings, place) for place in range(len(findings.models)) if findings.corruptions
        ],
        dots=_dots(findings),
        calibration=calibration_figures(findings),
        metrics=metric_table(findings),
    )


def _tile(headline: Headline) -> Tile:
    """Percents on a scale to 100, longer where a value is."""
    unit, factor, least = ("%", 100, 100.0) if headline.measure.in_percent else ("", 1, 0.0)
    values = [factor * entry.value for entry in headline.entries if entry.value is not None]
    end = nice_axis(0.0, max([least, *values]))[-1]
    ticks = [0.0, end / 2, end]
    return Tile(
        headline,
        tuple(100 * max(0.0, value) / end for value in values),
        tuple(tick_text(value, ticks, unit and f" {unit}") for value in ticks),
    )


def _dots(findings: BenchmarkFindings) -> list[tuple[str, str, DotChart]]:
    if not findings.perturbations:
        return []
    titles = {"flip_probability": "Flip probability", "t5d": "Top-5 distance"}
    return [(name, title, perturbation_dots(findings, name)) for name, title in titles.items()]
