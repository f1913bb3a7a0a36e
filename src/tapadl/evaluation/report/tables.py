"""The tables of a report, in words and numbers; the page and the text lay them out."""

from collections.abc import Sequence
from dataclasses import dataclass

from tapadl.evaluation.compare import Difference, ModelComparison
from tapadl.evaluation.report.findings import OTHER_GROUP, BenchmarkFindings
from tapadl.evaluation.report.measures import measure
from tapadl.evaluation.report.words import corruption_label, percent

NOTHING = "–"


@dataclass(frozen=True)
class Cell:
    """One cell: its text, the exact number behind it, small print, and how strong its colour is, 0..1."""

    text: str
    value: float | None = None
    small: str = ""
    heat: float | None = None
    strong: bool = False


@dataclass(frozen=True)
class ReportTable:
    """A table; a row without cells is a heading.

    Args:
        caption: What it shows.
        columns: Of all cells, the first of the row names.
        rows: Name and cells of each.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


def metric_table(findings: BenchmarkFindings) -> ReportTable:
    """Every metric of every model with its standard error."""
    return ReportTable(
        "All metrics",
        ("Metric", *(model.label for model in findings.models)),
        tuple(
            (
                measure(name).label,
                tuple(_metric_cell(findings, place, name) for place in range(len(findings.models))),
            )
            for name in findings.metric_names
        ),
    )


def _metric_cell(findings: BenchmarkFindings, place: int, name: str) -> Cell:
    entry = findings.entry(place, name)
    if entry.value is None:
        return Cell(NOTHING)
    small = "" if entry.standard_error is None else f"± {measure(name).number(entry.standard_error)}"
    return Cell(measure(name).text(entry.value), entry.value, small)


def comparison_table(findings: BenchmarkFindings, comparison: ModelComparison) -> ReportTable:
    """A model against the reference, metric by metric."""
    first, other = (findings.models[place].label for place in (comparison.reference, comparison.other))
    return ReportTable(
        f"{other} against {first}",
        ("Metric", first, other, "Difference", "95 % interval", "p", "Better"),
        tuple(
            (measure(difference.metric).label, _difference_cells(difference, (first, other)))
            for difference in comparison.differences
        ),
    )


def _difference_cells(difference: Difference, labels: tuple[str, str]) -> tuple[Cell, ...]:
    words = measure(difference.metric)
    return (
        Cell(words.text(difference.reference), difference.reference),
        Cell(words.text(difference.other), difference.other),
        Cell(words.points(difference.difference), difference.difference),
        Cell(interval_text(difference)),
        Cell(p_text(difference.p_value), difference.p_value),
        Cell(better_text(difference, labels), strong=difference.better is not None),
    )


def interval_text(difference: Difference) -> str:
    """Both ends of the interval of a difference."""
    if difference.interval is None:
        return NOTHING
    low, high = (measure(difference.metric).points(end) for end in difference.interval)
    return f"{low} to {high}"


def p_text(p_value: float | None) -> str:
    """A p value with three places.

    Example:
        >>> p_text(0.0001), p_text(0.0321), p_text(None)
        ('< 0.001', '0.032', '–')
    """
    if p_value is None:
        return NOTHING
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def better_text(difference: Difference, labels: tuple[str, str]) -> str:
    """Which model is better, if interval and test say so."""
    if difference.p_value is None:
        return "not tested"
    return "not clear" if difference.better is None else labels[difference.better]


def corruption_table(findings: BenchmarkFindings, place: int) -> ReportTable:
    """Error of one model by corruption and severity; of ImageNet-C also the corruption error."""
    with_alexnet = findings.relative_to_alexnet
    columns = [f"{severity}" for severity in findings.severities]
    rows: list[tuple[str, tuple[Cell, ...]]] = []
    for group, names in findings.groups.items():
        rows.append((_group_label(group), ()))
        for name in names:
            errors = findings.errors[place][name]
            cells = [_error_cell(errors.get(severity)) for severity in findings.severities]
            cells.append(_error_cell(findings.mean_error(place, name)))
            if with_alexnet:
                relative = findings.corruption_error(place, name)
                cells.append(Cell(NOTHING) if relative is None else Cell(percent(relative), relative))
            rows.append((corruption_label(name), tuple(cells)))
    return ReportTable(
        f"{findings.models[place].label}: error in percent by corruption and severity",
        ("Corruption", *columns, "Mean", *(["÷ AlexNet"] if with_alexnet else [])),
        tuple(rows),
    )


def models_table(findings: BenchmarkFindings) -> ReportTable:
    """Error under each corruption, mean over severities: of every model, with the difference to the first."""
    rows: list[tuple[str, tuple[Cell, ...]]] = []
    for group, names in findings.groups.items():
        rows.append((_group_label(group), ()))
        for name in names:
            errors = [findings.mean_error(place, name) for place in range(len(findings.models))]
            cells = [_error_cell(errors[0])]
            cells += [_error_cell(error, measure("error").points(error - errors[0])) for error in errors[1:]]
            rows.append((corruption_label(name), tuple(cells)))
    return ReportTable(
        "Error in percent by corruption, mean over severities",
        ("Corruption", *(model.label for model in findings.models)),
        tuple(rows),
    )


def _group_label(group: str) -> str:
    return "Other" if group == OTHER_GROUP else corruption_label(group)


def _error_cell(error: float | None, small: str = "") -> Cell:
    return Cell(NOTHING) if error is None else Cell(percent(error), error, small, heat=error)


def overview_table(all_findings: Sequence[BenchmarkFindings]) -> ReportTable:
    """The headline metrics of every benchmark."""
    names = [
        name
        for name in ("error", "mean_corrupted_error", "mce", "relative_mce", "flip_probability")
        if any(name in findings.metric_names for findings in all_findings)
    ]
    rows: list[tuple[str, tuple[Cell, ...]]] = []
    for findings in all_findings:
        several = len(findings.models) > 1
        if several:
            rows.append((findings.name, ()))
        for place, model in enumerate(findings.models):
            cells = tuple(_metric_cell(findings, place, name) for name in names)
            rows.append((model.label if several else findings.name, cells))
    return ReportTable("All benchmarks", ("Benchmark", *(measure(name).label for name in names)), tuple(rows))
