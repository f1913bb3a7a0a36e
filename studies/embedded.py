"""The embedded benchmark: plain and TAP + ADL over three seeds, all 19 corruptions at five severities.

    python studies/embedded.py --out runs/embedded --write results/embedded

The models are those of `tapadl demo`, trained for equal steps, and plain once more for as long as TAP + ADL
takes; every one is shown the 4,000 test images in all cells by `tapadl evaluate`. A stopped study goes on.
`python studies/embedded_summary.py` sums the results up.
"""

import argparse
import shutil
from itertools import product
from pathlib import Path

from tapadl.cli import main as tapadl
from tapadl.evaluation.evaluate import RESULT

VARIANTS = ("plain", "tap+adl", "plain-equal-time")
BENCHMARK = "embedded-c"
ONE_CELL = ["--corruptions", "contrast", "--severities", 1]
ALL_CELLS = ["--benchmark", BENCHMARK, "--corruptions", "all", "--batch-size", 500, "--workers", 0]


def train(folder: Path, first_seed: int, seeds: int) -> None:
    """Weights of every variant and seed, by `tapadl demo` with a single cell of its own."""
    if (folder / "results.json").exists():
        return
    seeds_of = ["--seeds", seeds, "--first-seed", first_seed]
    run("demo", "--variants", *VARIANTS, *seeds_of, *ONE_CELL, "--out", folder)


def evaluate(weights: Path, out: Path) -> None:
    """One model in all cells."""
    if not (out / RESULT).exists():
        model = ["--model", "tapadl.demo.variants:demo_model", "--checkpoint", weights]
        run("evaluate", *model, *ALL_CELLS, "--out", out)


def run(*words: object) -> None:
    """A command of tapadl; ends the study where it fails."""
    if code := tapadl([str(word) for word in words]):
        raise SystemExit(code)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/embedded"), help="where runs and weights go")
    parser.add_argument("--write", type=Path, help="folder for the results, such as results/embedded")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=200)
    arguments = parser.parse_args()
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    train(arguments.out / "trained", arguments.first_seed, arguments.seeds)
    for variant, seed in product(VARIANTS, seeds):
        weights = arguments.out / "trained" / f"model_{variant}_seed{seed}.safetensors"
        out = arguments.out / f"{variant}_seed{seed}"
        evaluate(weights, out)
        if arguments.write is not None:
            arguments.write.mkdir(parents=True, exist_ok=True)
            shutil.copy(out / RESULT, arguments.write / f"{variant}_seed{seed}.json")


if __name__ == "__main__":
    main()
