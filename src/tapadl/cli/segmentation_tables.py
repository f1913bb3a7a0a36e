"""Results of segmenters as tables for the terminal."""

from collections.abc import Iterator

from rich import box
from rich.markup import escape
from rich.table import Table

from tapadl.cli.tables import below
from tapadl.tasks.segmentation.evaluation.compare import Comparison
from tapadl.tasks.segmentation.evaluation.report.measures import measure
from tapadl.tasks.segmentation.evaluation.report.tables import interval_text, points_interval
from tapadl.tasks.segmentation.evaluation.result import SegmentationResult


def segmentation_table(result: SegmentationResult) -> Table:
    """Every metric of every benchmark with its interval over images; higher is better."""
    table = Table(title=escape(f"{result.name}, higher is better"), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for header in ("benchmark", "form", "images", "metric"):
        table.add_column(header)
    for header in ("value", "95 % interval"):
        table.add_column(header, justify="right", no_wrap=True)
    for benchmark in result.benchmarks:
        about = [benchmark.benchmark, benchmark.form, f"{benchmark.images['count']:,}"]
        for name, value in benchmark.metrics.items():
            what = measure(name)
            interval = interval_text(benchmark.interval(name))
            table.add_row(*about, below(what.label), what.text(value), interval)
            about = ["", "", ""]
        if not benchmark.labelled:
            table.add_row(*about, "no labels: predictions alone", "", "")
        table.add_section()
    return table


def comparison_tables(comparison: Comparison) -> Iterator[Table]:
    """One table a benchmark and model: every metric of the reference and of the model, and the difference."""
    for benchmark, pairs in comparison.by_benchmark.items():
        for pair in pairs:
            reference, other = (escape(comparison.labels[place]) for place in (0, pair.other))
            table = Table(
                title=f"{benchmark}: {other} against {reference}",
                caption=escape(" ".join(["Higher is better.", *pair.cautions])),
                box=box.SIMPLE_HEAD,
                padding=(0, 1, 0, 0),
            )
            table.add_column("metric", no_wrap=True)
            for header in (reference, other, "difference", "95 % interval"):
                table.add_column(header, justify="right", overflow="fold")
            table.add_column("better")
            for one in pair.differences:
                what = measure(one.metric)
                table.add_row(
                    below(what.label),
                    what.text(one.reference),
                    what.text(one.other),
                    what.points(one.difference),
                    points_interval(one),
                    "" if one.better is None else ("left", "right")[one.better],
                )
            yield table
