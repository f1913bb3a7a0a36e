"""How the settings of the demo were chosen: on validation images, never on test images.

    python studies/demo_choice.py --out runs/demo-choice --write results/demo-choice.json

Every trial changes one thing against the starting point and trains with seeds that the measured study does
not use. Corrupted validation images (2,000, twelve corruptions, severities 2 and 4) decide. Trials that only
change TAP or ADL train no plain model: it would be that of the starting point. A stopped study goes on.
"""

import argparse
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from tapadl.data.json_file import load_json, save_json
from tapadl.demo.bench import Bench, load_data
from tapadl.demo.folder import open_folder
from tapadl.demo.result import DemoResult
from tapadl.demo.run import run_demo
from tapadl.demo.settings import DemoSettings, ModelConfig
from tapadl.evaluation.provenance import hardware, versions
from tapadl.training.config import TrainingConfig

BOTH = ("plain", "tap+adl")
START = TrainingConfig(
    epochs=4,
    batch_size=50,
    learning_rate=2e-3,
    weight_decay=0.05,
    label_smoothing=0.1,
    adl_weight=1.0,
    adl_tau=2.0,
)
# name: variants to train, changes of the training, branches of TAP
TRIALS: dict[str, tuple[tuple[str, ...], dict[str, float], int]] = {
    "start": (BOTH, {}, 4),
    "learning rate 0.001": (BOTH, {"learning_rate": 1e-3}, 4),
    "learning rate 0.003": (BOTH, {"learning_rate": 3e-3}, 4),
}


class Quiet:
    """Prints the stages and nothing else."""

    def expect(self, work: int) -> None:
        """Ignored."""

    def begin(self, run: str, stage: str, work: int) -> None:
        """One line."""
        print(" ", run, stage, flush=True)

    def advance(self, run: str, work: int) -> None:
        """Ignored."""

    def end(self, run: str) -> None:
        """Ignored."""

    def tell(self, text: str) -> None:
        """One line."""
        print(" ", text, flush=True)


def settings_of(trial: str, seed: int) -> DemoSettings:
    """The demo that a trial runs."""
    variants, changes, num_branches = TRIALS[trial]
    return DemoSettings(
        variants=variants,  # type: ignore[arg-type]
        first_seed=seed,
        evaluate_on="validation",
        severities=(2, 4),
        training=replace(START, **changes),  # type: ignore[arg-type]
        model=ModelConfig(num_branches=num_branches),
    )


def run_trial(trial: str, seed: int, out: Path, processes: int) -> DemoResult:
    """The result of a trial, from its folder if it is finished."""
    settings = settings_of(trial, seed)
    path = out / f"{trial.replace(',', '').replace(' ', '-')}-seed{seed}"
    if (path / "results.json").exists():
        return DemoResult.load(path / "results.json")
    bench = Bench.of(settings, load_data(settings))
    with open_folder(path, settings, versions=versions()) as folder:
        command = "python studies/demo_choice.py"
        return run_demo(bench, folder, command=command, observer=Quiet(), processes=processes).result


def rows_of(trial: str, result: DemoResult) -> list[dict[str, Any]]:
    """What the table keeps of a trial: a row a model."""
    keep = ("clean_error", "mean_corruption_error", "noise", "blur", "weather", "digital", "training_seconds")
    return [
        {
            "trial": trial,
            "variant": run.variant,
            "seed": run.seed,
            **{name: round(run.metrics[name], 5) for name in keep},
        }
        for run in result.runs
    ]


def main() -> None:
    """Run the trials, write the table after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/demo-choice"), help="folder of the trials")
    parser.add_argument("--write", type=Path, default=Path("results/demo-choice.json"), help="the table")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1000, 1001], help="of the trials")
    parser.add_argument("--trials", nargs="+", choices=TRIALS, default=list(TRIALS), help="which")
    parser.add_argument("--processes", type=int, default=2, help="runs side by side")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = load_json(arguments.write)["runs"] if arguments.write.exists() else []
    for trial, seed in product(arguments.trials, arguments.seeds):
        print(f"{trial}, seed {seed}", flush=True)
        rows = rows_of(trial, run_trial(trial, seed, arguments.out, arguments.processes))
        for row in rows:
            clean, corrupted = row["clean_error"], row["mean_corruption_error"]
            print(f"  {row['variant']}: {clean:.4f} clean, {corrupted:.4f} corrupted", flush=True)
        table = [old for old in table if (old["trial"], old["seed"]) != (trial, seed)] + rows
        content = {
            "schema": 1,
            "kind": "demo-choice",
            "command": "python studies/demo_choice.py",
            "evaluated_on": "2,000 validation images, twelve corruptions, severities 2 and 4",
            "versions": versions(),
            "hardware": hardware(torch.device("cpu")),
            "starting_point": asdict(START) | {"num_branches": 4},
            "trials": {name: changes for name, (_, changes, _) in TRIALS.items()},
            "runs": table,
        }
        save_json(content, arguments.write)


if __name__ == "__main__":
    main()
