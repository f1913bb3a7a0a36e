"""The report of segmenters as one HTML file that needs nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tapadl.data.atomic import write_atomically
from tapadl.evaluation.report.conditions import model_facts
from tapadl.evaluation.report.environment import page_environment
from tapadl.evaluation.report.figures import Figure
from tapadl.evaluation.report.measures import Measure
from tapadl.evaluation.report.tables import ReportTable
from tapadl.tasks.segmentation.evaluation.compare import Comparison
from tapadl.tasks.segmentation.evaluation.report import conditions
from tapadl.tasks.segmentation.evaluation.report.figures import (
    ClassChart,
    class_chart,
    css_colour,
    severity_curves,
)
from tapadl.tasks.segmentation.evaluation.report.findings import (
    BenchmarkFindings,
    Model,
    benchmark_title,
    findings_of,
)
from tapadl.tasks.segmentation.evaluation.report.measures import measure
from tapadl.tasks.segmentation.evaluation.report.overlays import Overlays
from tapadl.tasks.segmentation.evaluation.report.tables import (
    class_table,
    comparison_table,
    corruption_table,
    interval_text,
    metric_table,
    models_table,
)
from tapadl.tasks.segmentation.evaluation.report.text import render_text
from tapadl.tasks.segmentation.evaluation.result import SegmentationResult

TEMPLATE = "segmentation.html.j2"
# So many headlines stand in tiles; more, as of the conditions of ACDC with their mean, in the table alone.
_MOST_TILES = 5


def write_report(
    results: Sequence[SegmentationResult],
    page: Path,
    text: Path,
    *,
    comparison: Comparison | None = None,
    overlays: Mapping[str, Overlays] | None = None,
) -> None:
    """Write the report of an evaluation, or of several side by side, as a page and as Markdown.

    Args:
        results: One, or those of the comparison.
        page: The HTML file: one file, no network.
        text: The Markdown file with the same numbers.
        comparison: Of several results.
        overlays: Pictures to show, by benchmark.

    Raises:
        OSError: If a file cannot be written.
    """
    write_atomically(page, render_page(results, comparison, overlays).encode())
    write_atomically(text, render_text(results, comparison).encode())


def render_page(
    results: Sequence[SegmentationResult],
    comparison: Comparison | None = None,
    overlays: Mapping[str, Overlays] | None = None,
) -> str:
    """The page as text; see `write_report`."""
    models, all_findings = findings_of(results, comparison)
    environment = page_environment("tapadl.tasks.segmentation.evaluation.report")
    environment.filters.update(css_colour=css_colour)
    shown = overlays or {}
    return environment.get_template(TEMPLATE).render(
        # for the last line of the page
        results={"versions": results[0].versions, "created": max(result.created for result in results)},
        models=models,
        left_out=() if comparison is None else comparison.left_out,
        sections=[_section(findings, shown.get(findings.name)) for findings in all_findings],
        compared=conditions.COMPARED,
        intervals=conditions.INTERVALS,
        facts=[(model, model_facts(model.result)) for model in models],
    )


@dataclass(frozen=True)
class TileValue:
    """A headline metric of one model."""

    model: Model
    value: float
    interval: str


@dataclass(frozen=True)
class Tile:
    """A headline metric with bars on one scale from 0 to 100 %."""

    name: str
    measure: Measure
    values: tuple[TileValue, ...]


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
    across_models: ReportTable | None
    corruption_tables: list[ReportTable]
    classes: ClassChart | None
    class_tables: list[ReportTable]
    metrics: ReportTable
    overlays: Overlays | None


def _section(findings: BenchmarkFindings, overlays: Overlays | None) -> Section:
    places = range(len(findings.models))
    return Section(
        findings=findings,
        title=benchmark_title(findings.name),
        facts=conditions.benchmark_facts(findings),
        notices=conditions.notices(findings),
        tiles=[_tile(findings, name) for name in findings.headlines[:_MOST_TILES]],
        comparisons=[comparison_table(findings, comparison) for comparison in findings.comparisons],
        curves=severity_curves(findings),
        across_models=models_table(findings) if len(places) > 1 and findings.groups else None,
        corruption_tables=[corruption_table(findings, place) for place in places if findings.groups],
        classes=class_chart(findings) if findings.labelled else None,
        class_tables=[class_table(findings, place) for place in places if findings.labelled],
        metrics=metric_table(findings),
        overlays=overlays,
    )


def _tile(findings: BenchmarkFindings, name: str) -> Tile:
    return Tile(
        name,
        measure(name),
        tuple(
            TileValue(model, metrics[name], interval_text(found.interval(name)))
            for model, metrics, found in zip(findings.models, findings.metrics, findings.found, strict=True)
        ),
    )
