"""The tables of a segmenter's report, in words and numbers; the page and the text lay them out."""

import math

from tapadl.evaluation.plan import Cell
from tapadl.evaluation.report.tables import NOTHING, ReportTable
from tapadl.evaluation.report.tables import Cell as TableCell
from tapadl.evaluation.report.words import corruption_label, percent
from tapadl.tasks.segmentation.evaluation.compare import Difference, ModelComparison
from tapadl.tasks.segmentation.evaluation.report.findings import BenchmarkFindings
from tapadl.tasks.segmentation.evaluation.report.measures import measure


def percent_or_nothing(value: float | None) -> str:
    """A share in percent, a dash where there is none."""
    return NOTHING if value is None or math.isnan(value) else percent(value)


def interval_text(interval: tuple[float, float] | None) -> str:
    """Both ends of the interval of a share, in percent.

    Example:
        >>> interval_text((0.411, 0.529)), interval_text(None)
        ('41.1 to 52.9', '')
    """
    return "" if interval is None else " to ".join(map(percent_or_nothing, interval))


def _share(value: float | None, small: str = "", *, heat: bool = False) -> TableCell:
    if value is None or math.isnan(value):
        return TableCell(NOTHING)
    return TableCell(percent(value), value, small, heat=1 - value if heat else None)


def metric_table(findings: BenchmarkFindings) -> ReportTable:
    """Every metric of every model with its interval."""
    rows = []
    for name in findings.metrics[0]:
        cells = [
            _share(metrics[name], interval_text(found.interval(name)))
            for metrics, found in zip(findings.metrics, findings.found, strict=True)
        ]
        rows.append((measure(name).label, tuple(cells)))
    return ReportTable(
        "All metrics in percent, with 95 % intervals over images",
        ("Metric", *(model.label for model in findings.models)),
        tuple(rows),
    )


def comparison_table(findings: BenchmarkFindings, comparison: ModelComparison) -> ReportTable:
    """A model against the reference, metric by metric."""
    labels = findings.models[0].label, findings.models[comparison.other].label
    return ReportTable(
        f"{labels[1]} against {labels[0]}",
        ("Metric, in percent", *labels, "Difference", "95 % interval", "Better"),
        tuple((measure(one.metric).label, _difference_cells(one, labels)) for one in comparison.differences),
    )


def _difference_cells(difference: Difference, labels: tuple[str, str]) -> tuple[TableCell, ...]:
    words = measure(difference.metric)
    better = difference.better
    return (
        _share(difference.reference),
        _share(difference.other),
        TableCell(words.points(difference.difference), difference.difference),
        TableCell(points_interval(difference)),
        TableCell("not clear" if better is None else labels[better], strong=better is not None),
    )


def points_interval(difference: Difference) -> str:
    """Both ends of the interval of a difference, in percentage points."""
    if difference.interval is None:
        return NOTHING
    return " to ".join(measure(difference.metric).points(end) for end in difference.interval)


def corruption_table(findings: BenchmarkFindings, place: int) -> ReportTable:
    """MIoU of one model by corruption and severity."""
    mious = findings.mious[place]
    rows: list[tuple[str, tuple[TableCell, ...]]] = []
    for group, names in findings.groups.items():
        rows.append((corruption_label(group), ()))
        for name in names:
            cells = [_share(mious.get(Cell(name, severity)), heat=True) for severity in findings.severities]
            cells.append(_share(findings.mean_miou(place, name), heat=True))
            rows.append((corruption_label(name), tuple(cells)))
    return ReportTable(
        f"{findings.models[place].label}: mIoU in percent by corruption and severity",
        ("Corruption", *(str(severity) for severity in findings.severities), "Mean"),
        tuple(rows),
    )


def models_table(findings: BenchmarkFindings) -> ReportTable:
    """MIoU under each corruption, mean over severities: of every model, with the difference to the first."""
    rows: list[tuple[str, tuple[TableCell, ...]]] = []
    for group, names in findings.groups.items():
        rows.append((corruption_label(group), ()))
        for name in names:
            values = [findings.mean_miou(place, name) for place in range(len(findings.models))]
            cells = [_share(values[0], heat=True)]
            cells += [
                _share(value, measure("miou").points(value - values[0]), heat=True) for value in values[1:]
            ]
            rows.append((corruption_label(name), tuple(cells)))
    return ReportTable(
        "mIoU in percent by corruption, mean over severities",
        ("Corruption", *(model.label for model in findings.models)),
        tuple(rows),
    )


def class_table(findings: BenchmarkFindings, place: int) -> ReportTable:
    """Intersection over union of every class of one model, in each set of conditions."""
    iou = findings.found[place].iou
    names = findings.models[place].result.classes["names"]
    return ReportTable(
        f"{findings.models[place].label}: IoU in percent by class",
        ("Class", *(corruption_label(condition) for condition in iou)),
        tuple(
            (name, tuple(_share(float(values[index])) for values in iou.values()))
            for index, name in enumerate(names)
        ),
    )
