"""The embedded benchmark in one table: mean and standard deviation over seeds, and what is minus plain.

python studies/embedded_summary.py    write the table into docs/evaluate.md
"""

import re
import statistics
from pathlib import Path

from tapadl.demo.report.findings import VARIANT_LABELS
from tapadl.evaluation.benchmark_result import EvaluationResult

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "embedded"
DOCUMENT = ROOT / "docs" / "evaluate.md"
VARIANTS = ("plain", "tap+adl", "plain-equal-time")
COLUMNS = {
    "error": "clean",
    "mean_corrupted_error": "corrupted",
    "mean_corrupted_error_noise": "noise",
    "mean_corrupted_error_blur": "blur",
    "mean_corrupted_error_weather": "weather",
    "mean_corrupted_error_digital": "digital",
    "expected_calibration_error": "calibration",
}

Metrics = dict[str, float]


def load(folder: Path = RESULTS) -> dict[str, dict[int, Metrics]]:
    """The metrics of every variant and seed."""
    found: dict[str, dict[int, Metrics]] = {}
    for variant in VARIANTS:
        for path in sorted(folder.glob(f"{variant}_seed*.json")):
            seed = int(path.stem.rpartition("seed")[2])
            found.setdefault(variant, {})[seed] = EvaluationResult.load(path).metrics("embedded-c")
    return found


def table(metrics: dict[str, dict[int, Metrics]]) -> str:
    """Markdown: a row a variant, then the differences to plain with the same seed."""
    plain = metrics["plain"]
    lines = [f"| error in percent | {' | '.join(COLUMNS.values())} |", f"|---|{'---:|' * len(COLUMNS)}"]
    lines += [_row(VARIANT_LABELS[variant], list(by_seed.values())) for variant, by_seed in metrics.items()]
    for variant, by_seed in metrics.items():
        if variant != "plain":
            pairs = [(one, plain[seed]) for seed, one in by_seed.items()]
            apart = [{name: one[name] - base[name] for name in COLUMNS} for one, base in pairs]
            lines.append(_row(f"{VARIANT_LABELS[variant]} - {VARIANT_LABELS['plain']}", apart, sign="+"))
    return "\n".join(lines)


def _row(name: str, found: list[Metrics], sign: str = "") -> str:
    cells = (
        f"{100 * statistics.fmean(one[column] for one in found):{sign}.1f} ± "
        f"{100 * statistics.stdev(one[column] for one in found):.1f}"
        for column in COLUMNS
    )
    return f"| {name} | {' | '.join(cells)} |"


def with_table(text: str, metrics: dict[str, dict[int, Metrics]]) -> str:
    """A document with the table between its marks."""
    start, end = "<!-- embedded table -->", "<!-- end -->"
    pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", flags=re.DOTALL)
    return pattern.sub(lambda _: f"{start}\n{table(metrics)}\n{end}", text)


if __name__ == "__main__":
    DOCUMENT.write_text(with_table(DOCUMENT.read_text(), load()))
