"""Attention on the page: pictures side by side, plots over layers, tables."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from markupsafe import Markup

from tapadl.demo.attention import AttentionExample, Look
from tapadl.demo.report.findings import Estimate, Findings, variant_label
from tapadl.demo.report.pictures import heat_uri, image_uri
from tapadl.diagnostics import received_attention
from tapadl.evaluation.report.charts import Frame, Line, line_chart, nice_axis
from tapadl.evaluation.report.words import corruption_label

# More lines than this in one plot are a knot; the table below it has all numbers.
_MOST_DASHED = 3


@dataclass(frozen=True)
class Plot:
    """A number over the layers: title, what it means, how it is drawn."""

    title: str
    meaning: str
    chart: Markup


@dataclass(frozen=True)
class Overlay:
    """Heat over an image; `heat` is empty where there is nothing to show."""

    image: str
    heat: str
    alt: str


@dataclass(frozen=True)
class OverlayRow:
    """One kind of map for every variant, clean and corrupted, on one scale."""

    title: str
    note: str
    overlays: tuple[Overlay, ...]
    marks_query: bool


@dataclass(frozen=True)
class Answer:
    """What a model says about an image."""

    image: str
    alt: str
    prediction: str
    confidence: float
    right: bool


@dataclass(frozen=True)
class AttentionPanel:
    """One image through the eyes of the models.

    Args:
        title: What it shows.
        condition: Corruption and severity.
        variants: Whose two columns, clean and corrupted, follow each other.
        answers: For every variant on the clean and on the corrupted image.
        layers: For each layer its rows.
        query: Position and size of the marked token, in percent: left, top, width, height.
    """

    title: str
    condition: str
    variants: tuple[str, ...]
    answers: tuple[Answer, ...]
    layers: tuple[tuple[OverlayRow, ...], ...]
    query: tuple[float, float, float, float]


def attention_panel(example: AttentionExample, variants: Sequence[str]) -> AttentionPanel:
    """The pictures of one example."""
    rows, cols = example.grid_size
    condition = f"{corruption_label(example.corruption)}, severity {example.severity}"
    pictures = (image_uri(example.clean), image_uri(example.corrupted))
    states = ("clean", condition.lower())
    views = [
        _View(variant, state, picture, look)
        for variant in variants
        for state, picture, look in zip(states, pictures, example.looks[variant], strict=True)
    ]
    num_layers = max((len(view.look.attention) for view in views), default=0)
    return AttentionPanel(
        title=example.class_name,
        condition=condition,
        variants=tuple(variants),
        answers=tuple(
            Answer(
                view.picture,
                f"{example.class_name}, {view.state}",
                view.look.prediction,
                view.look.confidence,
                view.look.prediction == example.class_name,
            )
            for view in views
        ),
        layers=tuple(_layer_rows(views, layer, example.grid_size) for layer in range(num_layers)),
        query=(100 * (cols // 2) / cols, 100 * (rows // 2) / rows, 100 / cols, 100 / rows),
    )


@dataclass(frozen=True)
class _View:
    variant: str
    state: str
    picture: str
    look: Look

    def overlay(self, values: torch.Tensor | None, highest: float, what: str) -> Overlay:
        alt = f"{what}, {variant_label(self.variant)}, {self.state}"
        if values is None:
            return Overlay(self.picture, "", f"{alt}: nothing to show")
        return Overlay(self.picture, heat_uri(values / (highest or 1.0)), alt)


def _layer_rows(views: Sequence[_View], layer: int, grid_size: tuple[int, int]) -> tuple[OverlayRow, ...]:
    rows, cols = grid_size
    query = (rows // 2) * cols + cols // 2
    received, of_query = [], []
    for view in views:
        attention = view.look.attention[layer]
        prefix = attention.shape[1] - rows * cols
        fair_share = 1 / attention.shape[1]
        received.append(_patches(received_attention(attention[None])[0], grid_size) / fair_share)
        of_query.append(_patches(attention[prefix + query], grid_size) / fair_share)
    found = [
        _row("Attention each token receives", views, received, marks_query=False),
        _row("Attention of the marked token", views, of_query, marks_query=True),
    ]
    dilations = [view.look.dilation[layer] if view.look.dilation else None for view in views]
    known = [dilation for dilation in dilations if dilation is not None]
    if known:
        low = min(float(dilation.min()) for dilation in known)
        high = max(float(dilation.max()) for dilation in known)
        scaled = [None if dilation is None else dilation - low for dilation in dilations]
        title = "How far TAP reaches"
        overlays = tuple(
            view.overlay(values, high - low, title) for view, values in zip(views, scaled, strict=True)
        )
        found.append(
            OverlayRow(title, f"mean dilation, {low:.2f} to {high:.2f} patches", overlays, marks_query=False)
        )
    return tuple(found)


def _row(
    title: str, views: Sequence[_View], maps: Sequence[torch.Tensor], *, marks_query: bool
) -> OverlayRow:
    highest = max(float(values.max()) for values in maps)
    overlays = tuple(view.overlay(values, highest, title) for view, values in zip(views, maps, strict=True))
    return OverlayRow(title, f"0 to {highest:.1f} × a fair share", overlays, marks_query)


def _patches(keys: torch.Tensor, grid_size: tuple[int, int]) -> torch.Tensor:
    """What falls on the patches, (rows, cols); prefix tokens have no place in the image."""
    rows, cols = grid_size
    return keys[len(keys) - rows * cols :].reshape(rows, cols)


_PLOTS = (
    (
        "stability", "cosine", "Stability: cosine",
        "Likeness of attention on clean and corrupted images; 1 = attention did not move.",
    ),
    (
        "stability", "divergence", "Stability: JS divergence",
        "Jensen-Shannon, in nats: 0 = attention did not move, 0.69 = it moved altogether.",
    ),
    (
        "focus", "top_share", "Share of the top 5 % of keys",
        "Attention that goes to the few tokens that receive most.",
    ),
    (
        "focus", "effective_keys", "Effective number of keys",
        "Tokens that would be as spread out if they received equally.",
    ),
    ("focus", "gini", "Gini of received attention", "0 = all tokens receive the same."),
    (
        "focus", "overlap", "Overlap with the mean row",
        "The ADL value: 1 = all queries use the same strong keys.",
    ),
)  # fmt: skip


def attention_plots(findings: Findings, style_of: Callable[[str], str]) -> list[Plot]:
    """One plot a number, one line a variant; none where no run has attention numbers."""
    plots = []
    for kind, name, title, meaning in _PLOTS:
        states = ("stability",) if kind == "stability" else ("clean", "corrupted")
        if len(findings.variants) > _MOST_DASHED:
            states = states[:1]
        lines = [
            line
            for variant in findings.variants
            for state in states
            if (line := _layer_line(findings, variant, state, name, style_of)) is not None
        ]
        if lines:
            plots.append(Plot(title, meaning, line_chart(lines, _layer_frame(lines, title))))
    return plots


def _layer_line(
    findings: Findings, variant: str, state: str, name: str, style_of: Callable[[str], str]
) -> Line | None:
    found = _by_layer(findings, variant, lambda layer: layer[state][name])
    if not found:
        return None
    spreads = [value.std for value in found if value.std is not None]
    return Line(
        variant_label(variant) + {"clean": " (clean)", "corrupted": " (corrupted)"}.get(state, ""),
        style_of(variant),
        list(range(1, len(found) + 1)),
        [value.mean for value in found],
        spreads if len(spreads) == len(found) else None,
        dashed=state == "corrupted",
    )


def _layer_frame(lines: Sequence[Line], title: str) -> Frame:
    num_layers = max(len(line.xs) for line in lines)
    ends = [
        mean + sign * spread
        for line in lines
        for mean, spread in zip(line.means, line.spreads or [0.0] * len(line.means), strict=True)
        for sign in (-1, 1)
    ]
    return Frame(
        alt=f"{title} over the layers; the numbers are in the table below.",
        x_range=(0.6, num_layers + 0.4),
        x_ticks=[(layer, str(layer)) for layer in range(1, num_layers + 1)],
        y_ticks=nice_axis(min(ends), max(ends)),
        x_name="layer",
    )


@dataclass(frozen=True)
class NumberTable:
    """A table of text cells with a caption; the first column names the row."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def attention_tables(findings: Findings) -> list[NumberTable]:
    """All attention numbers by layer, and stability by corruption; none where no run has them."""
    rows = []
    for variant in findings.variants:
        layers = max(
            (len(run["attention"]["layers"]) for run in _with_attention(findings, variant)), default=0
        )
        rows += [_table_row(findings, variant, layer) for layer in range(layers)]
    if not rows:
        return []
    columns = (
        "Variant", "Layer", "Cosine", "JS divergence", "Top 5 %", "Top 5 %, corrupted", "Effective keys",
        "Effective keys, corrupted", "Gini", "Overlap", "Mean-row cosine", "TAP dilation",
    )  # fmt: skip
    return [NumberTable("Attention by layer: all numbers", columns, tuple(rows)), _by_corruption(findings)]


def _table_row(findings: Findings, variant: str, layer: int) -> tuple[str, ...]:
    def number(value: Callable[[Mapping[str, Any]], float | None], places: int = 3) -> str:
        found = findings.estimate(
            variant,
            lambda run: value(run["attention"]["layers"][layer]) if run.get("attention") else None,
        )
        return _text(found, places)

    return (
        variant_label(variant),
        str(layer + 1),
        number(lambda numbers: numbers["stability"]["cosine"]),
        number(lambda numbers: numbers["stability"]["divergence"]),
        number(lambda numbers: numbers["clean"]["top_share"]),
        number(lambda numbers: numbers["corrupted"]["top_share"]),
        number(lambda numbers: numbers["clean"]["effective_keys"], 1),
        number(lambda numbers: numbers["corrupted"]["effective_keys"], 1),
        number(lambda numbers: numbers["clean"]["gini"]),
        number(lambda numbers: numbers["clean"]["overlap"]),
        number(lambda numbers: numbers["clean"]["cosine"]),
        number(lambda numbers: numbers.get("mean_dilation"), 2),
    )


def _by_corruption(findings: Findings) -> NumberTable:
    setup = next(run["attention"] for run in findings.results["runs"] if run.get("attention"))

    def mean_over_layers(run: Mapping[str, Any], name: str) -> float | None:
        layers = run["attention"]["layers"] if run.get("attention") else []
        cosines = [layer["stability_by_corruption"][name]["cosine"] for layer in layers]
        return sum(cosines) / len(cosines) if cosines else None

    def row(name: str) -> tuple[str, ...]:
        found = [
            findings.estimate(variant, lambda run: mean_over_layers(run, name))
            for variant in findings.variants
        ]
        return (corruption_label(name), *(_text(value, 3) for value in found))

    caption = f"Stability by corruption: cosine at severity {setup['severity']}, mean over layers"
    return NumberTable(
        caption, ("Corruption", *map(variant_label, findings.variants)), tuple(map(row, setup["corruptions"]))
    )


def _by_layer(
    findings: Findings, variant: str, value: Callable[[Mapping[str, Any]], float]
) -> list[Estimate]:
    runs = _with_attention(findings, variant)
    layers = min((len(run["attention"]["layers"]) for run in runs), default=0)
    return [
        Estimate.of([value(run["attention"]["layers"][layer]) for run in runs]) for layer in range(layers)
    ]


def _with_attention(findings: Findings, variant: str) -> list[Mapping[str, Any]]:
    return [run for run in findings.runs(variant) if run.get("attention")]


def _text(value: Estimate | None, places: int) -> str:
    if value is None:
        return "–"
    return f"{value.mean:.{places}f}" + ("" if value.std is None else f" ± {value.std:.{places}f}")
