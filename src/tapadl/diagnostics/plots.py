"""The numbers as pictures; matplotlib is loaded only when one is drawn, and nothing global is touched.

Colours are told apart by colour-blind readers: Wong, "Points of view: Color blindness", Nature Methods 2011,
and cividis (Nunez, Anderton and Renslow, PLOS ONE 2018) for maps, which darkens evenly in grey too.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from tapadl.diagnostics.dilation import DilationReport
    from tapadl.diagnostics.focus import FocusReport
    from tapadl.diagnostics.rollout import Rollout
    from tapadl.diagnostics.stability import StabilityReport

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#777777"
MAP_COLOURS = "cividis"

_FOCUS_PANELS = (
    ("top_share", "share of the top 5 % of keys"),
    ("peak_share", "share of the top 1 % of keys"),
    ("prefix_share", "share of prefix tokens"),
    ("gini", "Gini of received attention"),
    ("effective_keys", "effective keys (exp entropy)"),
    ("participation", "effective keys (participation)"),
    ("overlap", "overlap with the mean row (ADL)"),
    ("cosine", "cosine with the mean row"),
)
_OF_SEVERAL_ROWS = ("overlap", "cosine")


def plot_focus(report: "FocusReport") -> Figure:
    """Every number over the layers."""
    figure = Figure(figsize=(13, 6), layout="constrained")
    panels = figure.subplots(2, 4, sharex=True)
    for axes, (field, title) in zip(panels.flat, _FOCUS_PANELS, strict=True):
        shown = [
            (place, layer)
            for place, layer in enumerate(report.layers, start=1)
            # one row is its own mean row
            if layer.num_queries > 1 or field not in _OF_SEVERAL_ROWS
        ]
        for place, layer in shown:
            values = [getattr(head, field) for head in layer.heads]
            axes.scatter([place] * len(values), values, s=16, color=BLUE, alpha=0.5, linewidths=0)
        means = [getattr(layer.mean, field) for _, layer in shown]
        axes.plot([place for place, _ in shown], means, color=ORANGE, marker="o", markersize=4)
        _tidy(axes, title, len(report.layers))
    for axes in panels[-1]:
        axes.set_xlabel("layer", fontsize=9)
    _legend(figure, panels[0, 0])
    return figure


def plot_stability(report: "StabilityReport") -> Figure:
    """Both numbers by corruption and layer, and by corruption and severity."""
    names = list(dict.fromkeys(cell.corruption for cell in report.corruptions))
    severities = list(dict.fromkeys(cell.severity for cell in report.corruptions))
    shape = (len(names), len(severities), len(report.layers), 2)
    values = np.array(
        [[layer.cosine, layer.divergence] for cell in report.corruptions for layer in cell.layers]
    ).reshape(shape)
    figure = Figure(figsize=(12, 2.6 + 0.42 * len(names)), layout="constrained")
    panels = figure.subplots(1, 4, width_ratios=[2, 1, 2, 1], sharey=True)
    # what did not move is bright in both
    kinds = (
        ("cosine: 1 = did not move", MAP_COLOURS),
        ("divergence in nats: 0 = did not move", f"{MAP_COLOURS}_r"),
    )
    for number, (title, colours) in enumerate(kinds):
        by_layer, by_severity = values[..., number].mean(axis=1), values[..., number].mean(axis=2)
        both = np.concatenate((by_layer, by_severity), axis=1)
        scale = {"vmin": both.min(), "vmax": max(both.max(), both.min() + 1e-9), "cmap": colours}
        left, right = panels[2 * number : 2 * number + 2]
        left.imshow(by_layer, aspect="auto", extent=_cells(len(report.layers), len(names)), **scale)
        image = right.imshow(by_severity, aspect="auto", **scale)
        left.set_title(title, loc="left", fontsize=10)
        left.set_xlabel("layer, mean over severities", fontsize=9)
        left.set_xticks(_layer_ticks(len(report.layers)))
        right.set_xlabel("severity, mean over layers", fontsize=9)
        right.set_xticks(range(len(severities)), [str(severity) for severity in severities])
        figure.colorbar(image, ax=right).ax.tick_params(labelsize=8)
    panels[0].set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    for axes in panels:
        axes.tick_params(labelsize=8, left=axes is panels[0])
    return figure


def plot_dilation(report: "DilationReport") -> Figure:
    """Use of the branches, dilation and entropy over the layers, and the dilation at each patch."""
    layers = report.layers
    places = range(1, len(layers) + 1)
    columns = 6
    map_rows = math.ceil(len(layers) / columns)
    figure = Figure(figsize=(11, 3.2 + 1.9 * map_rows), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[2.6, 1.9 * map_rows])
    above, below = parts
    use, mean, entropy = above.subplots(1, 3)
    num_branches = max(len(layer.use) for layer in layers)
    shades = colormaps[MAP_COLOURS](np.linspace(0.05, 0.95, num_branches))
    bottom = np.zeros(len(layers))
    for branch, shade in enumerate(shades):
        height = np.array([layer.use[branch] if branch < len(layer.use) else 0.0 for layer in layers])
        label = "itself" if branch == 0 else f"dilation {branch}"
        use.bar(places, height, bottom=bottom, color=shade, edgecolor="white", linewidth=0.5, label=label)
        bottom += height
    _tidy(use, "use of the branches", len(layers))
    use.set_ylim(0, 1)
    above.legend(
        *use.get_legend_handles_labels(), loc="outside lower left", ncols=8, fontsize=8, frameon=False
    )
    mean.plot(places, [layer.mean_dilation for layer in layers], color=BLUE, marker="o", markersize=4)
    _tidy(mean, "mean dilation", len(layers))
    mean.set_ylim(0, max(1, num_branches - 1))
    entropy.plot(places, [layer.entropy for layer in layers], color=BLUE, marker="o", markersize=4)
    entropy.axhline(math.log(num_branches), color=GREY, linestyle="--", linewidth=1, label="all alike")
    _tidy(entropy, "entropy of the branches, nats", len(layers))
    entropy.set_ylim(0, 1.08 * math.log(max(2, num_branches)))
    entropy.legend(fontsize=8, frameon=False, loc="lower left")
    for axes in (use, mean, entropy):
        axes.set_xlabel("layer", fontsize=9)
    grid = below.subplots(map_rows, columns).flatten()
    lowest = min(min(map(min, layer.by_patch)) for layer in layers)
    highest = max(max(map(max, layer.by_patch)) for layer in layers)
    for place, (axes, layer) in enumerate(zip(grid, layers, strict=False), start=1):
        image = axes.imshow(layer.by_patch, vmin=lowest, vmax=max(highest, lowest + 1e-9), cmap=MAP_COLOURS)
        axes.set_title(f"layer {place}", fontsize=8)
    for axes in grid:
        axes.set_axis_off()
    below.colorbar(image, ax=list(grid), label="mean dilation at each patch", shrink=0.9)
    return figure


def plot_rollout(rollout: "Rollout", images: torch.Tensor | None) -> Figure:
    """A map for each image, and above it the image."""
    maps = rollout.patches.flatten(1).shape[1] * rollout.patches
    count = len(maps)
    rows = 1 if images is None else 2
    figure = Figure(figsize=(1 + 2.2 * count, 2.4 * rows), layout="constrained")
    panels = figure.subplots(rows, count, squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    if images is not None:
        if len(images) != count:
            raise ValueError(f"expected the {count} images of the rollout, got {len(images)}")
        for axes, picture in zip(panels[0], images, strict=True):
            shown = picture.detach().float().cpu().clamp(0, 1).permute(1, 2, 0)
            axes.imshow(shown.expand(-1, -1, 3).numpy())
    highest = float(maps.max())
    for axes, shares in zip(panels[-1], maps, strict=True):
        image = axes.imshow(shares.numpy(), vmin=0, vmax=highest, cmap=MAP_COLOURS)
    figure.colorbar(image, ax=list(panels[-1]), label="times a fair share")
    return figure


def _tidy(axes: Any, title: str, num_layers: int) -> None:
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlim(0.4, num_layers + 0.6)
    axes.set_xticks(_layer_ticks(num_layers))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _legend(figure: Figure, axes: Any) -> None:
    axes.scatter([], [], s=16, color=BLUE, alpha=0.5, label="a head")
    axes.plot([], [], color=ORANGE, marker="o", markersize=4, label="mean over heads")
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False, fontsize=9
    )


def _layer_ticks(num_layers: int) -> Sequence[int]:
    return range(1, num_layers + 1, math.ceil(num_layers / 12))


def _cells(columns: int, rows: int) -> Sequence[float]:
    """Where an image of so many columns lies, if they are counted from 1."""
    return (0.5, columns + 0.5, rows - 0.5, -0.5)
