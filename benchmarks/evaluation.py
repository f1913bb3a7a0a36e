"""An ImageNet-C style evaluation from an image folder: share of the model, and against decoding per cell.

    python benchmarks/evaluation.py            write benchmarks/results/evaluation.json
    python benchmarks/evaluation.py --quick    two images, two corruptions, a check that this file runs

ViT-Ti/16 at 224 with random weights is shown JPEG photographs of 500 x 375 pixels (crops of the one that
matplotlib brings), clean and in the 15 corruptions at 5 severities made in memory: every image is decoded
once for its 76 cells. The naive order decodes and prepares an image again for every cell. Both use the same
corruptions, model and number of workers; the answers are checked to be the same before anything is timed. The
share of the model is the time in which the main process has images to show, in an evaluation of its own.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import timm
import torch

from measure import as_row, compare, write_results
from photographs import CLASSES, write_photographs
from tapadl.data.imagenet import image_folder
from tapadl.evaluation import library_preprocessing
from tapadl.evaluation.benchmarks import IN_MCE
from tapadl.evaluation.loading import LoadedModel
from tapadl.evaluation.plan import CLEAN, Cell, Part
from tapadl.evaluation.run import Clock, RunSettings, collect, run_plan

RESULTS = Path(__file__).parent / "results" / "evaluation.json"


class Evaluation:
    """The same evaluation in both orders."""

    def __init__(self, folder: Path, corruptions: tuple[str, ...], batch: int, workers: int) -> None:
        torch.manual_seed(0)
        model = timm.create_model("vit_tiny_patch16_224", num_classes=CLASSES).eval().requires_grad_(False)
        self.loaded = LoadedModel(
            "vit_tiny_patch16_224", model, library_preprocessing.from_timm(model), "", {}
        )
        images = image_folder(folder)
        cells = (Cell(CLEAN), *(Cell(name, severity) for name in corruptions for severity in range(1, 6)))
        self.once = [Part(images, cells, "in_memory")]
        self.per_cell = [Part(images, (cell,), "in_memory") for cell in cells]
        self.settings = RunSettings(batch_size=batch)
        self.workers = workers

    def run(self, parts: list[Part], clock: Clock | None = None) -> list[list[bool]]:
        """The answers in all cells."""
        with tempfile.TemporaryDirectory() as folder:
            run_plan(
                parts,
                self.loaded,
                Path(folder),
                self.settings,
                device=torch.device("cpu"),
                num_workers=self.workers,
                clock=clock,
            )
            found = collect(parts, Path(folder), self.settings)
        return [record.items["correct"].tolist() for part in found for record in part]


def measure(
    folder: Path, corruptions: tuple[str, ...], batch: int, workers: int, pairs: int
) -> dict[str, Any]:
    """One row of results."""
    evaluation = Evaluation(folder, corruptions, batch, workers)
    if evaluation.run(evaluation.once) != evaluation.run(evaluation.per_cell):
        raise SystemExit("expected the same answers in both orders, got others; nothing was timed")
    clock = Clock()
    start = time.perf_counter()
    evaluation.run(evaluation.once, clock)
    seconds = time.perf_counter() - start
    count, cells = len(evaluation.once[0].images), len(evaluation.once[0].cells)
    comparison = compare(
        lambda: evaluation.run(evaluation.per_cell),
        lambda: evaluation.run(evaluation.once),
        pairs=pairs,
        warmup=0,
    )
    row = as_row(
        comparison,
        images=count,
        cells=cells,
        batch=batch,
        workers=workers,
        model_share=round(clock.model / seconds, 3),
        shown_per_second=round(count * cells / seconds, 1),
    )
    print(
        f"{workers} workers: the model has {row['model_share']:.0%} of the time, {row['shown_per_second']} "
        f"images a second; {comparison.speedup} x faster than decoding per cell "
        f"(quartiles {comparison.speedup_quartiles})",
        flush=True,
    )
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two images and corruptions, nothing written")
    parser.add_argument("--images", type=int, default=32, help="how many (default 32)")
    parser.add_argument("--pairs", type=int, default=3, help="interleaved pairs (default 3)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the results go")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photographs(folder, 2 if arguments.quick else arguments.images)
        if arguments.quick:
            measure(folder, ("fog", "contrast"), 2, 0, 1)
            return
        rows = [measure(folder, IN_MCE, 32, workers, arguments.pairs) for workers in (0, 1)]
    write_results(arguments.out, rows=rows)


if __name__ == "__main__":
    main()
