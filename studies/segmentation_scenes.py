"""Segmentation on scenes: plain and TAP + ADL over three seeds, clean and under 19 corruptions.

    python studies/segmentation_scenes.py --out runs/scenes --write     results/segmentation-scenes.json
    python studies/segmentation_scenes.py --table                       their table in docs/segmentation.md

Builds the scenes (`scripts/segmentation_scenes.py`), trains `recipes/scenes_tiny_segmentation.yaml` with and
without TAP and ADL by `tapadl train`, and shows each model the validation scenes by `tapadl evaluate`. All of
it goes on where it was stopped. `--seeds` picks some, to share the work between processes.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
from itertools import product
from pathlib import Path

from tapadl.cli import main as tapadl
from tapadl.evaluation.evaluate import RESULT
from tapadl.tasks.segmentation.evaluation.result import SegmentationResult
from tapadl.tasks.training_run import WEIGHTS
from tapadl.training.engine import LOG
from tapadl.training.log import RunLog

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "segmentation-scenes.json"
DOCUMENT = ROOT / "docs" / "segmentation.md"
RECIPE = ROOT / "recipes" / "scenes_tiny_segmentation.yaml"
SCENES = ["--size", "96x144", "--train", "6000", "--val", "200", "--seed", "0"]
BENCHMARK = "segmentation-folder-c"
CELLS = ["--corruptions", "all", "--severities", "1", "3", "5"]
VARIANTS = {"plain": ["--tap.enabled", "false", "--adl.enabled", "false"], "TAP + ADL": []}
SEEDS = (0, 1, 2)
COLUMNS = {
    "miou": "clean",
    "mean_corrupted_miou": "corrupted",
    "mean_corrupted_miou_noise": "noise",
    "mean_corrupted_miou_blur": "blur",
    "mean_corrupted_miou_weather": "weather",
    "mean_corrupted_miou_digital": "digital",
}

Metrics = dict[str, float]


def folder_of(out: Path, variant: str, seed: int) -> Path:
    """Of a training."""
    return out / f"{variant.replace(' + ', '-')}_seed{seed}"


def run(*words: object) -> None:
    """A command of tapadl; ends the study where it fails."""
    if code := tapadl([str(word) for word in words]):
        raise SystemExit(code)


def study(out: Path, seeds: tuple[int, ...]) -> None:
    """All that is missing of the runs of these seeds."""
    scenes = out / "scenes"
    if not (scenes / "manifest.json").exists():
        script = ROOT / "scripts" / "segmentation_scenes.py"
        subprocess.run([sys.executable, str(script), str(scenes), *SCENES], check=True)
    for seed, (variant, words) in product(seeds, VARIANTS.items()):
        folder = folder_of(out, variant, seed)
        if not (folder / WEIGHTS).exists():
            data = ["--data.train", scenes, "--data.val", scenes, "--training.seed", seed]
            run("train", "--config", RECIPE, *data, *words, "--out", folder)
        if not (folder / WEIGHTS).exists():
            raise SystemExit(f"stopped in {folder}; the same command goes on from there")
        shown = folder.with_name(f"{folder.name}-shown")
        if not (shown / RESULT).exists():
            model = ["--task", "segmentation", "--model", folder / WEIGHTS]
            run("evaluate", *model, "--benchmark", BENCHMARK, "--data", scenes, *CELLS, "--out", shown)


def collect(out: Path) -> dict[str, object]:
    """What the results say, without the counts of every image."""
    rows = []
    for seed, variant in product(SEEDS, VARIANTS):
        folder = folder_of(out, variant, seed)
        result = SegmentationResult.load(folder.with_name(f"{folder.name}-shown") / RESULT)
        log = [line for line in RunLog(folder / LOG).lines() if line["kind"] == "train"]
        benchmark = result.benchmark(BENCHMARK)
        content = benchmark.to_json()
        rows.append(
            {
                "variant": variant,
                "seed": seed,
                "weights_sha256": result.model["weights_sha256"],
                "versions": dict(result.versions),
                "images": dict(benchmark.images),
                "trained_images_per_second": round(
                    statistics.median(line["images_per_second"] for line in log), 1
                ),
                "metrics": content["metrics"],
                "iou": content["iou"],
                "miou_by_cell": {cell.key: round(value, 6) for cell, value in benchmark.mious.items()},
            }
        )
    return {"command": "python studies/segmentation_scenes.py --out runs/scenes --write", "rows": rows}


def load(path: Path = RESULTS) -> dict[str, dict[int, Metrics]]:
    """The metrics of every variant and seed."""
    found: dict[str, dict[int, Metrics]] = {}
    for row in json.loads(path.read_text())["rows"]:
        found.setdefault(row["variant"], {})[row["seed"]] = row["metrics"]
    return found


def table(metrics: dict[str, dict[int, Metrics]]) -> str:
    """Markdown: a row a variant, then the difference to plain with the same seed."""
    lines = [f"| mIoU in percent | {' | '.join(COLUMNS.values())} |", f"|---|{'---:|' * len(COLUMNS)}"]
    lines += [_row(variant, list(by_seed.values())) for variant, by_seed in metrics.items()]
    plain = metrics["plain"]
    apart = [
        {name: both[name] - plain[seed][name] for name in COLUMNS}
        for seed, both in metrics["TAP + ADL"].items()
    ]
    return "\n".join([*lines, _row("TAP + ADL - plain", apart, sign="+")])


def _row(name: str, found: list[Metrics], sign: str = "") -> str:
    cells = (
        f"{100 * statistics.fmean(one[column] for one in found):{sign}.1f} ± "
        f"{100 * statistics.stdev(one[column] for one in found):.1f}"
        for column in COLUMNS
    )
    return f"| {name} | {' | '.join(cells)} |"


def with_table(text: str, metrics: dict[str, dict[int, Metrics]]) -> str:
    """A document with the table between its marks."""
    start, end = "<!-- scenes table -->", "<!-- end -->"
    pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", flags=re.DOTALL)
    return pattern.sub(lambda _: f"{start}\n{table(metrics)}\n{end}", text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/scenes"), help="where scenes and runs go")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="(default: 0 1 2)")
    parser.add_argument("--write", action="store_true", help="sum the results up, once all are there")
    parser.add_argument("--table", action="store_true", help="only write the table of the summed up results")
    arguments = parser.parse_args()
    if not arguments.table:
        study(arguments.out, tuple(arguments.seeds))
    if arguments.write:
        RESULTS.write_text(json.dumps(collect(arguments.out), indent=1) + "\n")
    if arguments.write or arguments.table:
        DOCUMENT.write_text(with_table(DOCUMENT.read_text(), load()))


if __name__ == "__main__":
    main()
