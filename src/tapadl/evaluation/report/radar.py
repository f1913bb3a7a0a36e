"""Radar charts as SVG: one spoke a condition, one closed line a model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tapadl.evaluation.report.charts import Marker, mark, nice_axis, svg, tick_text

_WIDTH, _HEIGHT = 460, 372
_RADIUS = 140
# Labels stand this far outside the outer ring.
_GAP = 13
_LINE_HEIGHT = 13


@dataclass(frozen=True)
class Ring:
    """One closed line of a radar chart: a value for every spoke, from 0 in the centre outwards."""

    label: str
    style: str
    marker: Marker
    values: Sequence[float]


def radar_chart(spokes: Sequence[str], rings: Sequence[Ring], *, alt: str, unit: str = "") -> Markup:
    """Lines around a centre, all spokes on one scale that starts at 0.

    Args:
        spokes: Their labels, clockwise from the top; at least three.
        rings: One a model, drawn in this order.
        alt: What the chart shows, for those who do not see it.
        unit: Written behind numbers, such as "%".
    """
    ticks = nice_axis(0.0, max(value for ring in rings for value in ring.values))
    scale = _RADIUS / ticks[-1]
    parts = [_circle(value * scale) for value in ticks[1:]]
    parts += [_spoke(place, len(spokes), label) for place, label in enumerate(spokes)]
    parts += [_ring(ring, spokes, scale, unit) for ring in rings]
    # between the first two spokes, where no label and seldom a mark stands
    angle = math.pi / len(spokes)
    parts += [_tick(value * scale, angle, tick_text(value, ticks, unit)) for value in ticks[1:]]
    return svg(alt, _WIDTH, _HEIGHT, parts)


def _point(radius: float, place: int, count: int) -> tuple[float, float]:
    angle = 2 * math.pi * place / count
    return _WIDTH / 2 + radius * math.sin(angle), _HEIGHT / 2 - radius * math.cos(angle)


def _circle(radius: float) -> Markup:
    return Markup('<circle class="ring" cx="{}" cy="{}" r="{:.1f}"/>').format(_WIDTH / 2, _HEIGHT / 2, radius)


def _tick(radius: float, angle: float, text: str) -> Markup:
    x, y = _WIDTH / 2 + radius * math.sin(angle), _HEIGHT / 2 - radius * math.cos(angle)
    return Markup('<text class="on-line" x="{:.1f}" y="{:.1f}" text-anchor="middle">{}</text>').format(
        x, y + 4, text
    )


def _spoke(place: int, count: int, label: str) -> Markup:
    x, y = _point(_RADIUS, place, count)
    line = Markup('<line class="grid" x1="{}" y1="{}" x2="{:.1f}" y2="{:.1f}"/>').format(
        _WIDTH / 2, _HEIGHT / 2, x, y
    )
    x, y = _point(_RADIUS + _GAP, place, count)
    side = (x - _WIDTH / 2) / (_RADIUS + _GAP)
    anchor = "middle" if abs(side) < 0.15 else "start" if side > 0 else "end"
    words = label.split(" ", 1)
    # the block of lines grows away from the ring
    up = (_HEIGHT / 2 - y) / (_RADIUS + _GAP)
    first = y + 4 - _LINE_HEIGHT * (len(words) - 1) * (1 + up) / 2
    lines = [
        Markup('<text class="spoke" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
            x, first + _LINE_HEIGHT * row, anchor, word
        )
        for row, word in enumerate(words)
    ]
    return line + Markup("").join(lines)


def _ring(ring: Ring, spokes: Sequence[str], scale: float, unit: str) -> Markup:
    points = [_point(value * scale, place, len(spokes)) for place, value in enumerate(ring.values)]
    corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    marks = [
        mark(ring.marker, ring.style, x, y, f"{ring.label}, {spoke}: {value:.1f}{unit}")
        for (x, y), spoke, value in zip(points, spokes, ring.values, strict=True)
    ]
    area = Markup('<polygon class="area {0}" points="{1}"/>').format(ring.style, corners)
    return area + Markup("").join(marks)
