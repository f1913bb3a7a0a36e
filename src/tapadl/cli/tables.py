"""Results as tables for the terminal."""

from collections.abc import Iterator

from rich import box
from rich.markup import escape
from rich.table import Table

from tapadl.demo.result import BASELINE, GROUPS, DemoResult
from tapadl.evaluation.benchmark_result import EvaluationResult
from tapadl.evaluation.compare import Comparison
from tapadl.evaluation.report.measures import measure

_COLUMNS = {
    "clean_error": "clean",
    "mean_corruption_error": "corrupted",
    **{group: group for group in GROUPS},
}

Statistics = dict[str, dict[str, float | None]]


def demo_table(result: DemoResult) -> Table:
    """Error in percent by variant: clean, mean over corruptions, by group; spread over seeds below it.

    Then the differences to plain with the same seed. The table fits into 80 columns.
    """
    num_seeds = len({run.seed for run in result.runs})
    part = result.settings["evaluate_on"]
    table = Table(
        title=f"Error in percent on {part} images, lower is better",
        caption=f"mean, below it the standard deviation over {num_seeds} seeds"
        if num_seeds > 1
        else "one seed: no spread",
        box=box.SIMPLE_HEAD,
        padding=0,
    )
    table.add_column("variant")
    present = [metric for metric in _COLUMNS if metric in result.runs[0].metrics]
    for metric in present:
        table.add_column(_COLUMNS[metric], justify="right")
    table.add_column("training", justify="right")
    for variant, statistics in result.summary.items():
        seconds = statistics["training_seconds"]["mean"] or 0.0
        table.add_row(variant, *(_percent(statistics, metric) for metric in present), f"{seconds:.0f} s")
    table.add_section()
    if result.paired:
        table.add_row(f"minus {BASELINE}:")
    for variant, statistics in result.paired.items():
        cells = (_percent(statistics, metric, sign="+") for metric in present)
        table.add_row(variant, *cells)
    return table


def evaluation_table(result: EvaluationResult) -> Table:
    """Every metric of every benchmark with its standard error over images; lower is better in all of them."""
    table = Table(title=escape(f"{result.name}, lower is better"), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for header in ("benchmark", "form", "images", "metric"):
        table.add_column(header)
    for header in ("value", "std. error"):
        table.add_column(header, justify="right", no_wrap=True)
    for benchmark in result.benchmarks:
        errors = benchmark.standard_errors(result.clean_error_for(benchmark))
        about = [benchmark.benchmark, benchmark.form, f"{benchmark.images['count']:,}"]
        for name, value in result.metrics(benchmark.benchmark).items():
            what = measure(name)
            error = what.number(errors[name]) if name in errors else ""
            table.add_row(*about, below(what.label), what.text(value), error)
            about = ["", "", ""]
        table.add_section()
    return table


def comparison_tables(comparison: Comparison) -> Iterator[Table]:
    """One table a benchmark and model: every metric of the reference and of the model, and the difference."""
    for benchmark, pairs in comparison.by_benchmark.items():
        for pair in pairs:
            reference, other = (escape(comparison.labels[place]) for place in (pair.reference, pair.other))
            table = Table(
                title=f"{benchmark}: {other} against {reference}",
                caption=escape(" ".join(["Lower is better.", *pair.cautions])),
                box=box.SIMPLE_HEAD,
                padding=(0, 1, 0, 0),
            )
            table.add_column("metric", no_wrap=True)
            for header in (reference, other, "difference", "95 % interval", "p"):
                table.add_column(header, justify="right", overflow="fold")
            table.add_column("better")
            for one in pair.differences:
                what = measure(one.metric)
                interval = one.interval and " to ".join(what.points(end) for end in one.interval)
                better = "" if one.better is None else ("left", "right")[one.better]
                table.add_row(
                    below(what.label),
                    what.text(one.reference),
                    what.text(one.other),
                    what.points(one.difference),
                    interval or "",
                    "" if one.p_value is None else f"{one.p_value:.3f}" if one.p_value >= 0.001 else "<0.001",
                    better,
                )
            yield table


def below(label: str) -> str:
    """The label of a part, such as "Flip probability, snow", as it stands below that of the whole."""
    return f"  {label.split(', ', 1)[1]}" if ", " in label else label


def _percent(statistics: Statistics, metric: str, sign: str = "") -> str:
    mean, spread = statistics[metric]["mean"], statistics[metric]["std"]
    assert mean is not None
    rounded = round(100 * mean, 1)
    shown = f"{rounded:{sign}.1f}" if rounded else "0.0"
    return shown if spread is None else f"{shown}\n±{100 * spread:.1f}"
