"""A run as a picture: its losses, scores, learning rate and speed over the steps."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tapadl.data.atomic import write_atomically

CURVES = "curves.png"

_LOSSES = ("loss", "cross_entropy", "augmented_cross_entropy")
_SCORES = ("top1", "miou")
# Wong, "Points of view: Color blindness", Nature Methods 2011
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def draw_curves(lines: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the log of a run.

    Args:
        lines: Of `log.jsonl`.
        path: The picture to write or replace; nothing is written where there is nothing to draw.

    Raises:
        OSError: If it cannot be written.
    """
    trained = [line for line in lines if line["kind"] == "train"]
    evaluated = [line for line in lines if line["kind"] == "evaluation"]
    if not trained:
        return
    from matplotlib.figure import Figure

    names = {name for line in trained for name in line}
    diversity = sorted(name for name in names if name.startswith("adl"))
    scores = list(dict.fromkeys(name for line in evaluated for name in line if name.endswith(_SCORES)))
    panels = [
        ("loss", trained, [name for name in _LOSSES if name in names], 1.0),
        ("attention diversification", trained, diversity, 1.0),
        ("mIoU, percent" if "miou" in scores else "top-1, percent", evaluated, scores, 100.0),
        ("learning rate", trained, ["learning_rate"], 1.0),
        ("images a second", trained, ["images_per_second"], 1.0),
    ]
    panels = [panel for panel in panels if panel[2]]
    columns = 3
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(12, 2.9 * rows), layout="constrained")
    for place, (title, source, values, factor) in enumerate(panels):
        axes = figure.add_subplot(rows, columns, place + 1)
        for name, colour in zip(values, _COLOURS * (len(values) // len(_COLOURS) + 1), strict=False):
            points = [(line["step"], factor * line[name]) for line in source if line.get(name) is not None]
            marker = "o" if source is evaluated or len(points) == 1 else ""
            axes.plot(
                *zip(*points, strict=True), color=colour, marker=marker, markersize=3, label=_word(name)
            )
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("step", fontsize=9)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        if source is evaluated or values == ["images_per_second"]:
            axes.set_ylim(bottom=0)
        if len(values) > 1:
            axes.legend(frameon=False, fontsize=8)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120)
    write_atomically(path, picture.getvalue())


def _word(name: str) -> str:
    for score in _SCORES:
        name = "clean" if name == score else name.removesuffix(f"_{score}")
    return name.replace("_", " ")
