"""The embedded benchmark: plain and TAP + ADL over three seeds, all 19 corruptions at five severities.

    python studies/embedded.py --out runs/embedded --write results/embedded

The models are those of `tapadl demo`, trained for equal steps, and plain once more for as long as TAP + ADL
takes; every one is shown the 4,000 test images in all cells by `tapadl evaluate`. A stopped study goes on.
Written are one result a model and summary.json: means and standard deviations over seeds, and differences to
plain with the same seed.
"""

import argparse
import shutil
import statistics
from pathlib import Path

from tapadl.cli import main as tapadl
from tapadl.data.embedded import load_embedded
from tapadl.data.json_file import save_json
from tapadl.evaluation.benchmark_result import EvaluationResult
from tapadl.evaluation.evaluate import RESULT

VARIANTS = ("plain", "tap+adl", "plain-equal-time")
BENCHMARK = "embedded-c"
ONE_CELL = ["--corruptions", "contrast", "--severities", 1]
ALL_CELLS = ["--benchmark", BENCHMARK, "--corruptions", "all", "--batch-size", 500, "--workers", 0]

Metrics = dict[str, float]


def train(folder: Path, first_seed: int, seeds: int) -> None:
    """Weights of every variant and seed, by `tapadl demo` with a single cell of its own."""
    if (folder / "results.json").exists():
        return
    seeds_of = ["--seeds", seeds, "--first-seed", first_seed]
    run("demo", "--variants", *VARIANTS, *seeds_of, *ONE_CELL, "--out", folder)


def evaluate(weights: Path, out: Path) -> EvaluationResult:
    """The result of one model in all cells."""
    if not (out / RESULT).exists():
        model = ["--model", "tapadl.demo.variants:demo_model", "--checkpoint", weights]
        run("evaluate", *model, *ALL_CELLS, "--out", out)
    return EvaluationResult.load(out / RESULT)


def run(*words: object) -> None:
    """A command of tapadl; ends the study where it fails."""
    if code := tapadl([str(word) for word in words]):
        raise SystemExit(code)


def over_seeds(found: list[Metrics]) -> dict[str, dict[str, float]]:
    """Mean and sample standard deviation of every metric."""
    return {
        name: {
            "mean": statistics.fmean(one[name] for one in found),
            "std": statistics.stdev(one[name] for one in found),
        }
        for name in found[0]
    }


def summarise(metrics: dict[str, dict[int, Metrics]], command: str) -> dict[str, object]:
    """Over seeds: every variant, and every variant minus plain."""
    plain = metrics["plain"]

    def minus_plain(by_seed: dict[int, Metrics]) -> list[Metrics]:
        return [
            {name: value - plain[seed][name] for name, value in one.items()} for seed, one in by_seed.items()
        ]

    return {
        "command": command,
        "benchmark": BENCHMARK,
        "seeds": sorted(plain),
        "metrics": {variant: over_seeds(list(by_seed.values())) for variant, by_seed in metrics.items()},
        "minus_plain": {
            variant: over_seeds(minus_plain(by_seed))
            for variant, by_seed in metrics.items()
            if variant != "plain"
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/embedded"), help="where runs and weights go")
    parser.add_argument("--write", type=Path, help="folder for the results, such as results/embedded")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=200)
    arguments = parser.parse_args()
    load_embedded()
    train(arguments.out / "trained", arguments.first_seed, arguments.seeds)
    metrics: dict[str, dict[int, Metrics]] = {variant: {} for variant in VARIANTS}
    for variant in VARIANTS:
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            weights = arguments.out / "trained" / f"model_{variant}_seed{seed}.safetensors"
            out = arguments.out / f"{variant}_seed{seed}"
            metrics[variant][seed] = evaluate(weights, out).metrics(BENCHMARK)
            if arguments.write is not None:
                arguments.write.mkdir(parents=True, exist_ok=True)
                shutil.copy(out / RESULT, arguments.write / f"{variant}_seed{seed}.json")
    command = f"python studies/embedded.py --seeds {arguments.seeds} --first-seed {arguments.first_seed}"
    summary = summarise(metrics, command)
    if arguments.write is not None:
        save_json(summary, arguments.write / "summary.json")
    for variant, found in summary["metrics"].items():  # type: ignore[attr-defined]
        line = {name: f"{100 * one['mean']:.1f} ± {100 * one['std']:.1f}" for name, one in found.items()}
        print(variant, line)


if __name__ == "__main__":
    main()
