"""What README and docs show of the measured demo, made from its committed results.

    python studies/demo_summary.py

Reads results/demo.json, writes the picture docs/assets/demo.svg and puts the table between the markers
`<!-- demo table -->` and `<!-- end -->` of README.md and docs/demo.md. A test checks that they are current.
"""

import re
import statistics
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt

from tapadl.corruptions import CORRUPTIONS
from tapadl.demo.report.findings import VARIANT_LABELS
from tapadl.demo.result import BASELINE, GROUPS, DemoResult

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "demo.json"
PICTURE = ROOT / "docs" / "assets" / "demo.svg"
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "demo.md")
COLUMNS = {"clean_error": "clean", "mean_corruption_error": "corrupted", **{group: group for group in GROUPS}}
# Okabe and Ito's palette, safe for colour-blind readers; gray for the baseline.
COLOURS = {
    "plain": "#6b6b6b",
    "plain-equal-time": "#b0b0b0",
    "tap": "#56b4e9",
    "adl": "#e69f00",
    "tap+adl": "#0072b2",
}


def table(result: DemoResult) -> str:
    """Errors in percent as Markdown: mean and standard deviation over seeds, then differences to plain."""
    lines = [
        "| error in percent | " + " | ".join(COLUMNS.values()) + " | steps |",
        "|---|" + "---:|" * (len(COLUMNS) + 1),
    ]
    for variant, metrics in result.summary.items():
        steps = statistics.fmean(run.steps for run in result.runs if run.variant == variant)
        cells = [_number(metrics[name]) for name in COLUMNS]
        lines.append(f"| {VARIANT_LABELS[variant]} | {' | '.join(cells)} | {steps:,.0f} |")
    for variant, metrics in result.paired.items():
        cells = [_number(metrics[name], sign="+") for name in COLUMNS]
        lines.append(f"| {VARIANT_LABELS[variant]} - {VARIANT_LABELS[BASELINE]} | {' | '.join(cells)} | |")
    return "\n".join(lines)


def _number(estimate: dict[str, float | None], sign: str = "") -> str:
    mean, std = estimate["mean"] or 0.0, estimate["std"] or 0.0
    return f"{100 * mean:{sign}.1f} ± {100 * std:.1f}"


def with_table(document: str, result: DemoResult) -> str:
    """The text of a document with the table between its markers."""
    return re.sub(
        r"(<!-- demo table -->\n).*?(<!-- end -->)",
        lambda found: f"{found[1]}{table(result)}\n{found[2]}",
        document,
        flags=re.DOTALL,
    )


def draw(result: DemoResult, path: Path) -> None:
    """Error against severity, all corruptions and by group, one line a variant with its spread."""
    mpl.rcParams.update({"svg.hashsalt": "tapadl", "font.size": 9, "font.family": "sans-serif"})
    parts = {"all corruptions": None} | {group: group for group in GROUPS}
    figure, axes = plt.subplots(1, len(parts), figsize=(11, 2.9), sharey=True, constrained_layout=True)
    for axis, (title, group) in zip(axes, parts.items(), strict=True):
        for variant in result.variants:
            _draw_variant(axis, result, variant, group)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("severity")
        axis.set_xticks([0, 1, 2, 3, 4, 5], ["clean", "1", "2", "3", "4", "5"])
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="#00000018")
    axes[0].set_ylabel("error, percent")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None}, facecolor="white")
    plt.close(figure)


def _draw_variant(axis: "plt.Axes", result: DemoResult, variant: str, group: str | None) -> None:
    means, stds = [], []
    for severity in range(6):
        by_seed = [
            100
            * statistics.fmean(
                cell.error
                for cell in run.cells
                if cell.severity == severity
                and (severity == 0 or group is None or CORRUPTIONS[cell.corruption].group == group)
            )
            for run in result.runs
            if run.variant == variant
        ]
        means.append(statistics.fmean(by_seed))
        stds.append(statistics.stdev(by_seed) if len(by_seed) > 1 else 0.0)
    low, high = ([m + k * s for m, s in zip(means, stds, strict=True)] for k in (-1, 1))
    colour = COLOURS[variant]
    style = "--" if variant == "plain-equal-time" else "-"
    axis.plot(range(6), means, style, color=colour, marker="o", markersize=3, label=VARIANT_LABELS[variant])
    axis.fill_between(range(6), low, high, color=colour, alpha=0.15, linewidth=0)


def main() -> None:
    result = DemoResult.load(RESULTS)
    draw(result, PICTURE)
    for path in DOCUMENTS:
        path.write_text(with_table(path.read_text(), result))


if __name__ == "__main__":
    main()
