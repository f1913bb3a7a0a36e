"""The table of docs/text.md, made from the committed results of the text study.

    python studies/text_summary.py

Reads results/text.json and puts the table between the markers `<!-- text table -->` and
`<!-- end -->`. A test
checks that it is current.
"""

import re
import statistics
from pathlib import Path
from typing import Any

from tapadl.data.json_file import load_json

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "text.json"
DOCUMENT = ROOT / "docs" / "text.md"
LABELS = {"plain": "plain", "tap": "TAP", "adl": "ADL", "tap+adl": "TAP + ADL"}
COLUMNS = {
    "clean_error": "clean",
    **{f"noise_{severity}_error": f"noise {severity}" for severity in range(1, 6)},
    "mean_noise_error": "mean of 1-5",
}


def table(results: dict[str, Any]) -> str:
    """Errors in percent as Markdown: mean and standard deviation over seeds, then differences to plain.

    The training time is the median, which one run on a stalled machine does not move.
    """
    lines = [
        "| error in percent | " + " | ".join(COLUMNS.values()) + " | training |",
        "|---|" + "---:|" * (len(COLUMNS) + 1),
    ]
    for variant, metrics in results["summary"].items():
        cells = [_number(metrics[name]) for name in COLUMNS]
        seconds = statistics.median(run["seconds"] for run in results["runs"] if run["variant"] == variant)
        lines.append(f"| {LABELS[variant]} | {' | '.join(cells)} | {seconds:.0f} s |")
    for variant, metrics in results["paired"].items():
        cells = [_number(metrics[name], sign="+") for name in COLUMNS]
        lines.append(f"| {LABELS[variant]} - {LABELS['plain']} | {' | '.join(cells)} | |")
    return "\n".join(lines)


def _number(estimate: dict[str, float | None], sign: str = "") -> str:
    mean, std = estimate["mean"] or 0.0, estimate["std"] or 0.0
    return f"{100 * mean:{sign}.1f} ± {100 * std:.1f}"


def with_table(document: str, results: dict[str, Any]) -> str:
    """The text of the document with the table between its markers."""
    return re.sub(
        r"(<!-- text table -->\n).*?(<!-- end -->)",
        lambda found: f"{found[1]}{table(results)}\n{found[2]}",
        document,
        flags=re.DOTALL,
    )


def main() -> None:
    DOCUMENT.write_text(with_table(DOCUMENT.read_text(), load_json(RESULTS)))


if __name__ == "__main__":
    main()
