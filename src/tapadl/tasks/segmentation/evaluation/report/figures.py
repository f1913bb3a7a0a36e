"""The charts of one benchmark: mIoU against severity, and IoU by class."""

from collections.abc import Sequence
from dataclasses import dataclass

from tapadl.evaluation.plan import CLEAN, Cell
from tapadl.evaluation.report.charts import Frame, Line, line_chart, nice_axis
from tapadl.evaluation.report.figures import MOST_NAMED, Figure
from tapadl.evaluation.report.words import corruption_label
from tapadl.tasks.segmentation.evaluation.report.findings import BenchmarkFindings
from tapadl.tasks.segmentation.evaluation.report.tables import percent_or_nothing
from tapadl.tasks.segmentation.evaluation.summary import ALL_IOU, CLEAN_IOU, CORRUPTED_IOU


def severity_curves(findings: BenchmarkFindings) -> list[Figure]:
    """MIoU against severity, one chart a group, one line a model; thin lines are single corruptions."""
    if len(findings.severities) < 2:
        return []
    groups = findings.groups
    if len(groups) > 1:
        groups = {"all corruptions": [name for names in groups.values() for name in names], **groups}
    return [_severity_curve(findings, group, names) for group, names in groups.items()]


def _severity_curve(findings: BenchmarkFindings, group: str, names: Sequence[str]) -> Figure:
    highest = max(value for mious in findings.mious for value in mious.values())
    clean = [(0.0, CLEAN)] if Cell(CLEAN) in findings.mious[0] else []
    ticks = [*clean, *((float(severity), str(severity)) for severity in findings.severities)]
    frame = Frame(
        alt=f"mIoU against severity: {corruption_label(group)}. One line a model; the numbers are in the "
        "tables.",
        x_range=(ticks[0][0] - 0.4, ticks[-1][0] + 0.4),
        x_ticks=ticks,
        y_ticks=nice_axis(0.0, 100 * highest),
        unit="%",
        x_name="severity",
        height=190,
    )
    lines = []
    if len(findings.models) == 1 and 1 < len(names) < MOST_NAMED:
        for name in names:
            xs, means = _over_severity(findings, 0, [name])
            lines.append(Line(corruption_label(name), "thin", xs, means, marker="none"))
    for place, model in enumerate(findings.models):
        xs, means = _over_severity(findings, place, names)
        lines.append(Line(model.label, model.style, xs, means, marker=model.marker))
    return Figure(corruption_label(group), _named(findings, names), line_chart(lines, frame))


def _named(findings: BenchmarkFindings, names: Sequence[str]) -> str:
    """Which corruptions a chart is of; where some end early, the mean goes on without them."""
    if len(names) < MOST_NAMED:
        return ", ".join(map(corruption_label, names))
    last = findings.severities[-1]
    ending = [name for name in names if Cell(name, last) not in findings.mious[0]]
    rest = f"; at severity {last} the {len(names) - len(ending)} that have it" if ending else ""
    return f"{len(names)} corruptions{rest}"


def _over_severity(
    findings: BenchmarkFindings, place: int, names: Sequence[str]
) -> tuple[list[float], list[float]]:
    """Severities, 0 for clean where it was shown, and the mean mIoU in percent over corruptions."""
    mious = findings.mious[place]
    clean = mious.get(Cell(CLEAN))
    xs, means = ([0.0], [100 * clean]) if clean is not None else ([], [])
    for severity in findings.severities:
        found = [mious[Cell(name, severity)] for name in names if Cell(name, severity) in mious]
        if found:
            xs.append(float(severity))
            means.append(100 * sum(found) / len(found))
    return xs, means


@dataclass(frozen=True)
class Bar:
    """One bar: its colour, its name for a tooltip, its length in percent, and its number."""

    style: str
    name: str
    width: float
    text: str


@dataclass(frozen=True)
class ClassBars:
    """One class with its colour in pictures, and a bar for each model and set of conditions."""

    name: str
    colour: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class ClassChart:
    """IoU by class.

    Args:
        series: Style and name of each bar of a class.
        classes: In the order of the data set.
    """

    series: tuple[tuple[str, str], ...]
    classes: tuple[ClassBars, ...]


def class_chart(findings: BenchmarkFindings) -> ClassChart:
    """IoU of each class: of one model clean beside corrupted, of several each one's mean under corruption."""
    series = _series(findings)
    classes = findings.models[0].result.classes
    return ClassChart(
        series=tuple((style, name) for style, name, _ in series),
        classes=tuple(
            ClassBars(
                name,
                css_colour(colour),
                tuple(_bar(style, label, values[index]) for style, label, values in series),
            )
            for index, (name, colour) in enumerate(zip(classes["names"], classes["colours"], strict=True))
        ),
    )


def _series(findings: BenchmarkFindings) -> list[tuple[str, str, Sequence[float]]]:
    """Style, name and values by class of the bars."""
    ious = [found.iou for found in findings.found]
    order = [name for name in (CLEAN_IOU, ALL_IOU, CORRUPTED_IOU) if name in ious[0]]
    if len(findings.models) == 1:
        styles, labels = ("v0", "v3"), {CLEAN_IOU: "clean", ALL_IOU: "all conditions"}
        return [
            (style, labels.get(name, "mean under corruption"), ious[0][name].tolist())
            for style, name in zip(styles, order, strict=False)
        ]
    return [
        (model.style, model.label, iou[order[-1]].tolist())
        for model, iou in zip(findings.models, ious, strict=True)
    ]


def _bar(style: str, name: str, value: float) -> Bar:
    text = percent_or_nothing(value)
    return Bar(style, name, 0.0 if value != value else 100 * value, text)


def css_colour(colour: Sequence[int]) -> str:
    """A colour for CSS."""
    return "rgb({} {} {})".format(*colour)
