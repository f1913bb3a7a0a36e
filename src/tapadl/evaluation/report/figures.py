"""The charts of one benchmark."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tapadl.evaluation.plan import CLEAN
from tapadl.evaluation.report.charts import DotChart, Frame, Line, dot_chart, line_chart, nice_axis
from tapadl.evaluation.report.findings import OTHER_GROUP, BenchmarkFindings, Model
from tapadl.evaluation.report.radar import Ring, radar_chart
from tapadl.evaluation.report.words import corruption_label

# A bin with fewer images says little about accuracy in it.
FEWEST_IN_A_BIN = 20
# Of so many corruptions a chart gives the number, not the names.
MOST_NAMED = 8


@dataclass(frozen=True)
class Figure:
    """A chart with its title and a line on what it shows."""

    title: str
    meaning: str
    chart: Markup


def severity_curves(findings: BenchmarkFindings) -> list[Figure]:
    """Error against severity, one chart a group, one line a model; thin lines are single corruptions."""
    if len(findings.severities) < 2:
        return []
    highest = max(
        error
        for errors in findings.errors
        for name in findings.corruptions
        for error in errors[name].values()
    )
    groups = findings.groups
    if len(groups) > 1:
        groups = {"all corruptions": list(findings.corruptions), **groups}
    return [_severity_curve(findings, group, names, highest) for group, names in groups.items()]


def _severity_curve(findings: BenchmarkFindings, group: str, names: Sequence[str], highest: float) -> Figure:
    lines = []
    alone = len(findings.models) == 1 and 1 < len(names) < MOST_NAMED
    for place, model in enumerate(findings.models):
        if alone:
            for name in names:
                xs, means = _over_severity(findings, place, [name])
                lines.append(Line(corruption_label(name), "thin", xs, means, marker="none"))
        lines.append(_line(model, *_over_severity(findings, place, names)))
    title = "Other corruptions" if group == OTHER_GROUP else corruption_label(group)
    shown = (
        ", ".join(map(corruption_label, names)) if len(names) < MOST_NAMED else f"{len(names)} corruptions"
    )
    frame = _severity_frame(findings, f"Error against severity: {title}.", 100 * highest)
    return Figure(title, shown, line_chart(lines, frame))


def _over_severity(
    findings: BenchmarkFindings, place: int, names: Sequence[str]
) -> tuple[list[float], list[float]]:
    """Severities, 0 for clean where it was shown, and the mean error in percent over corruptions."""
    errors = findings.errors[place]
    clean = errors.get(CLEAN, {}).get(0)
    xs, means = ([0.0], [100 * clean]) if clean is not None else ([], [])
    for severity in findings.severities:
        found = [errors[name][severity] for name in names if severity in errors[name]]
        if found:
            xs.append(float(severity))
            means.append(100 * sum(found) / len(found))
    return xs, means


def _severity_frame(findings: BenchmarkFindings, alt: str, highest: float, height: int = 190) -> Frame:
    clean = [(0.0, CLEAN)] if CLEAN in findings.errors[0] else []
    ticks = [*clean, *((float(severity), str(severity)) for severity in findings.severities)]
    return Frame(
        alt=f"{alt} One line a model; the numbers are in the tables.",
        x_range=(ticks[0][0] - 0.4, ticks[-1][0] + 0.4),
        x_ticks=ticks,
        y_ticks=nice_axis(0.0, highest),
        unit="%",
        x_name="severity",
        height=height,
    )


def _line(model: Model, xs: Sequence[float], means: Sequence[float], *, dashed: bool = False) -> Line:
    label = f"{model.label}, corrupted" if dashed else model.label
    return Line(label, model.style, xs, means, dashed=dashed, marker=model.marker)


def corruption_radar(findings: BenchmarkFindings) -> Markup | None:
    """Error under each corruption, mean over severities; None for fewer than three."""
    names = list(findings.corruptions)
    if len(names) < 3:
        return None
    rings = [
        Ring(
            model.label,
            model.style,
            model.marker,
            [100 * findings.mean_error(place, name) for name in names],
        )
        for place, model in enumerate(findings.models)
    ]
    alt = "Error under each corruption, one closed line a model; the numbers are in the table."
    return radar_chart([corruption_label(name) for name in names], rings, alt=alt, unit="%")


def calibration_figures(findings: BenchmarkFindings) -> list[Figure]:
    """Accuracy against confidence; and the calibration error against severity."""
    lines = []
    for place, model in enumerate(findings.models):
        for corrupted in (False, True):
            found = findings.calibration(place, corrupted=corrupted)
            bins = [] if found is None else [one for one in found.bins() if one[0] >= FEWEST_IN_A_BIN]
            xs, means = [100 * one[1] for one in bins], [100 * one[2] for one in bins]
            if bins:
                lines.append(_line(model, xs, means, dashed=corrupted))
    if not lines:
        return []
    ticks = [20.0 * place for place in range(6)]
    frame = Frame(
        alt="Accuracy against confidence, one line a model, dashed for corrupted images.",
        x_range=(0, 100),
        x_ticks=[(value, f"{value:.0f}%") for value in ticks],
        y_ticks=ticks,
        unit="%",
        x_name="at confidence",
        height=250,
    )
    even = Line("as confident as right", "even", [0, 100], [0, 100], marker="none")
    reliability = Figure(
        "Accuracy against confidence",
        "On the thin line a model is as often right as it is confident; below it, it is overconfident. Bins "
        f"with fewer than {FEWEST_IN_A_BIN} images are left out.",
        line_chart([even, *lines], frame),
    )
    return [reliability, *_calibration_by_severity(findings)]


def _calibration_by_severity(findings: BenchmarkFindings) -> list[Figure]:
    by_model = [findings.calibration_errors(place) for place in range(len(findings.models))]
    if min(len(errors) for errors in by_model) < 2:
        return []
    highest = max(error for errors in by_model for error in errors.values())
    lines = [
        _line(model, list(map(float, errors)), [100 * error for error in errors.values()])
        for model, errors in zip(findings.models, by_model, strict=True)
    ]
    frame = _severity_frame(findings, "Calibration error against severity.", 100 * highest, 250)
    return [
        Figure(
            "Calibration error against severity",
            "Expected gap between confidence and accuracy; mean over corruptions.",
            line_chart(lines, frame),
        )
    ]


def perturbation_dots(findings: BenchmarkFindings, metric: str) -> DotChart:
    """Flip probability or top-5 distance by perturbation, with whiskers of one standard error."""
    in_percent = metric == "flip_probability"
    scale = 100 if in_percent else 1
    rows = []
    for name in findings.perturbations:
        entries = [findings.entry(place, f"{metric}_{name}") for place in range(len(findings.models))]
        values = [
            (
                entry.model.label,
                entry.model.style,
                scale * entry.value,
                None if entry.standard_error is None else scale * entry.standard_error,
            )
            for entry in entries
            if entry.value is not None
        ]
        rows.append((corruption_label(name), values))
    return dot_chart(rows, unit="%" if in_percent else "")
