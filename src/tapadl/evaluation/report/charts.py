"""Charts as SVG that takes its colours from the page, so that they read in light and dark."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

Marker = Literal["circle", "square", "triangle", "diamond", "none"]

# Corners around the point, of about the area of the circle.
_CORNERS = {
    "square": ((-2.8, -2.8), (2.8, -2.8), (2.8, 2.8), (-2.8, 2.8)),
    "triangle": ((0.0, -4.0), (3.7, 2.8), (-3.7, 2.8)),
    "diamond": ((0.0, -4.2), (4.2, 0.0), (0.0, 4.2), (-4.2, 0.0)),
}


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Args:
        label: Who it is, for the tooltip.
        style: CSS class that gives colour.
        xs: Positions.
        means: Values there.
        spreads: Half heights of the band around it; None for no band.
        dashed: Draw it dashed.
        marker: Shape of the points.
    """

    label: str
    style: str
    xs: Sequence[float]
    means: Sequence[float]
    spreads: Sequence[float] | None = None
    dashed: bool = False
    marker: Marker = "circle"


@dataclass(frozen=True)
class Frame:
    """Size and axes of a line chart, in units of its view box.

    Args:
        alt: What the chart shows, for those who do not see it.
        x_range: Values at the left and right edge.
        x_ticks: Values and labels below.
        y_ticks: Values labelled at the left, from the bottom edge to the top edge; see `nice_axis`.
        unit: Written behind numbers, such as "%".
        x_name: What the labels below count, for the tooltip.
        width: Of the whole picture.
        height: Of the whole picture.
        dots: Mark the points.
    """

    alt: str
    x_range: tuple[float, float]
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[float]
    unit: str = ""
    x_name: str = ""
    width: int = 340
    height: int = 170
    dots: bool = True

    left = 38
    right = 8
    top = 10
    bottom = 22

    def x(self, value: float) -> float:
        """Position of a value along the width."""
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        """Position of a value along the height."""
        low, high = self.y_ticks[0], self.y_ticks[-1]
        return (
            self.height - self.bottom - (value - low) / (high - low) * (self.height - self.top - self.bottom)
        )


def line_chart(lines: Sequence[Line], frame: Frame) -> Markup:
    """Lines with their bands over a grid, as an SVG element."""
    parts = [_gridline(frame, value, tick_text(value, frame.y_ticks, frame.unit)) for value in frame.y_ticks]
    parts += [
        Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
            frame.x(value), frame.height - 5, label
        )
        for value, label in frame.x_ticks
    ]
    parts += [_band(line, frame) for line in lines if line.spreads is not None]
    parts += [_line(line, frame) for line in lines]
    return svg(frame.alt, frame.width, frame.height, parts)


@dataclass(frozen=True)
class Dot:
    """One value of a dot chart; positions in percent of the width."""

    style: str
    text: str
    at: float
    whisker: tuple[float, float] | None


@dataclass(frozen=True)
class DotChart:
    """One row a condition, one dot a variant with a whisker of its spread. The page lays it out.

    Args:
        rows: Label and dots of each.
        ticks: Position in percent of the width and label of each.
    """

    rows: tuple[tuple[str, tuple[Dot, ...]], ...]
    ticks: tuple[tuple[float, str], ...]


def dot_chart(
    rows: Sequence[tuple[str, Sequence[tuple[str, str, float, float | None]]]], *, unit: str = ""
) -> DotChart:
    """A dot chart of rows (label, values), each value a (variant, style, mean, spread or None)."""
    values = [value for _, row in rows for value in row]
    ticks = nice_axis(
        min(mean - (spread or 0) for _, _, mean, spread in values),
        max(mean + (spread or 0) for _, _, mean, spread in values),
        count=5,
    )
    low, high = ticks[0], ticks[-1]

    def position(value: float) -> float:
        return 100 * (value - low) / (high - low)

    def dot(row: str, variant: str, style: str, mean: float, spread: float | None) -> Dot:
        ends = None if spread is None else (position(mean - spread), position(mean + spread))
        return Dot(style, f"{variant}, {row}: {_with_spread(mean, spread, unit)}", position(mean), ends)

    return DotChart(
        rows=tuple((label, tuple(dot(label, *value) for value in row)) for label, row in rows),
        ticks=tuple((position(value), tick_text(value, ticks, unit)) for value in ticks),
    )


def nice_axis(low: float, high: float, *, count: int = 4) -> list[float]:
    """About `count` equal steps between round numbers, from `low` or below to `high` or above.

    Example:
        >>> nice_axis(12.3, 38.9)
        [10.0, 20.0, 30.0, 40.0]
    """
    step = _nice_step(max(high - low, 1e-3 * max(abs(high), 1.0)) / count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(first, max(last, first + 1) + 1)]


def nice_ticks(low: float, high: float, *, count: int) -> list[float]:
    """About `count` round numbers in a range.

    Example:
        >>> nice_ticks(0, 60, count=4)
        [0.0, 20.0, 40.0, 60.0]
    """
    step = _nice_step((high - low) / count)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]


def tick_text(value: float, ticks: Sequence[float], unit: str) -> str:
    """A number with as many places as its neighbours need."""
    places = next((places for places in range(4) if all(round(t, places) == t for t in ticks)), 4)
    return f"{value:.{places}f}{unit}"


def _nice_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= step * (1 - 1e-9))


def svg(alt: str, width: int, height: int, parts: Sequence[Markup]) -> Markup:
    """A picture out of its parts; `alt` says what it shows."""
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        width, height, alt, Markup("").join(parts)
    )


def _gridline(frame: Frame, value: float, text: str) -> Markup:
    return Markup(
        '<line class="grid" x1="{0}" x2="{1}" y1="{2:.1f}" y2="{2:.1f}"/>'
        '<text class="tick" x="{3}" y="{4:.1f}" text-anchor="end">{5}</text>'
    ).format(
        frame.left, frame.width - frame.right, frame.y(value), frame.left - 5, frame.y(value) + 3.5, text
    )


def _band(line: Line, frame: Frame) -> Markup:
    upper = [(x, m + s) for x, m, s in zip(line.xs, line.means, line.spreads or (), strict=True)]
    lower = [(x, m - s) for x, m, s in zip(line.xs, line.means, line.spreads or (), strict=True)]
    points = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in upper + lower[::-1])
    return Markup('<polygon class="band {}" points="{}"/>').format(line.style, points)


def _line(line: Line, frame: Frame) -> Markup:
    points = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in zip(line.xs, line.means, strict=True))
    dashes = " dashed" if line.dashed else ""
    drawn = Markup('<polyline class="line {}{}" points="{}"/>').format(line.style, dashes, points)
    if not frame.dots or line.marker == "none":
        return drawn
    spreads: Sequence[float | None] = line.spreads or [None] * len(line.xs)
    names = dict(frame.x_ticks)
    marks = []
    for x, mean, spread in zip(line.xs, line.means, spreads, strict=True):
        where = f"{frame.x_name} {names.get(x, f'{x:g}')}"
        title = f"{line.label}, {where}: {_with_spread(mean, spread, frame.unit)}"
        marks.append(mark(line.marker, f"{line.style}{dashes}", frame.x(x), frame.y(mean), title))
    return drawn + Markup("").join(marks)


def mark(marker: Marker, style: str, x: float, y: float, title: str) -> Markup:
    """A point of a chart in the shape of its line; `title` is its tooltip."""
    if marker == "circle":
        shape = Markup('circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="3"').format(style, x, y)
    else:
        corners = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in _CORNERS[marker])
        shape = Markup('polygon class="dot {}" points="{}"').format(style, corners)
    return Markup("<{}><title>{}</title></{}>").format(shape, title, shape.split(" ", 1)[0])


def _with_spread(mean: float, spread: float | None, unit: str) -> str:
    places = 1 if abs(mean) >= 10 else 2 if abs(mean) >= 1 else 3
    return f"{mean:.{places}f}" + ("" if spread is None else f" ± {spread:.{places}f}") + unit
