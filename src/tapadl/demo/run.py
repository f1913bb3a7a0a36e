"""The demo from start to end: train every variant with every seed, corrupt, evaluate, write results."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from tapadl.corruptions import constants_for
from tapadl.data.embedded import load_embedded
from tapadl.data.fashion_mnist import ClassificationData, LabelledImages, load_full
from tapadl.demo.attention import ReportExamples, attention_numbers, collect_examples
from tapadl.demo.folder import DemoFolder
from tapadl.demo.provenance import hardware, versions
from tapadl.demo.report import write_report
from tapadl.demo.settings import EQUAL_TIME, EQUAL_TIME_NEEDS, DemoSettings, Variant
from tapadl.demo.variants import build_model, has_adl
from tapadl.evaluation.result import CellResult, DemoResult, RunResult
from tapadl.evaluation.runner import Cell, CorruptedImages, benchmark_cells, evaluate_cells
from tapadl.tasks.classification import Normalisation, count_errors, train_classifier
from tapadl.training.loop import FitResult, Step
from tapadl.training.weights import load_weights, save_weights

# Work is counted in images through a model, forward; backward takes about twice that again.
TRAINING_WORK = 3


class Observer(Protocol):
    """Who is told how a demo goes."""

    def expect(self, work: int) -> None:
        """So much work is left in all."""

    def begin(self, stage: str, work: int) -> None:
        """A stage of a run begins."""

    def advance(self, work: int) -> None:
        """So much of the stage is done."""

    def tell(self, text: str) -> None:
        """A sentence for the reader."""


@dataclass(frozen=True)
class DemoOutcome:
    """What `run_demo` gives.

    Args:
        result: As written to `results.json`.
        models: The trained models by (variant, seed), in evaluation mode.
        data: What they were trained and evaluated on.
        normalise: What the models expect of their images.
        images: The corrupted images, as every model saw them.
    """

    result: DemoResult
    models: Mapping[tuple[str, int], nn.Module]
    data: ClassificationData
    normalise: Normalisation
    images: CorruptedImages


@dataclass(frozen=True)
class _Bench:
    """What all runs of a demo share."""

    settings: DemoSettings
    data: ClassificationData
    normalise: Normalisation
    evaluated: LabelledImages
    images: CorruptedImages
    cells: tuple[Cell, ...]
    device: torch.device
    models: dict[tuple[str, int], nn.Module] = field(default_factory=dict)

    @property
    def training_work(self) -> int:
        training = self.settings.training
        return TRAINING_WORK * training.total_steps(len(self.data.train)) * training.batch_size

    @property
    def evaluation_work(self) -> int:
        return len(self.cells) * len(self.evaluated) + len(self.data.validation)


def check_settings(settings: DemoSettings) -> None:
    """Find out before any work whether the corruptions and the device exist.

    Raises:
        ValueError: If one does not.
    """
    benchmark_cells(settings.corruptions, settings.severities)
    _device(settings.device)


def load_data(
    settings: DemoSettings, data_root: Path | None = None, *, download: bool = False
) -> ClassificationData:
    """The data of a demo, cut to the asked size.

    Args:
        settings: Which data and how many images.
        data_root: Folder of the original files, for "full".
        download: Let torchvision fetch them.

    Raises:
        ValueError: If "full" is asked for without a folder, or a file is damaged.
        FileNotFoundError: If a file is missing.
    """
    if settings.data == "full":
        if data_root is None:
            raise ValueError(
                "expected --data-root with the folder of the original files for --data full, got none"
            )
        data = load_full(data_root, download=download)
    else:
        data = load_embedded()
    many = max(len(data.train), len(data.test))
    return ClassificationData(
        name=data.name,
        class_names=data.class_names,
        train=data.train.first(settings.train_images or many),
        validation=data.validation.first(settings.evaluation_images or many),
        test=data.test.first(settings.evaluation_images or many),
    )


def run_demo(
    settings: DemoSettings, data: ClassificationData, folder: DemoFolder, *, command: str, observer: Observer
) -> DemoOutcome:
    """Do every run that the folder does not hold yet, then write `results.json` and `report.html`.

    Args:
        settings: What to compare.
        data: From `load_data`.
        folder: From `open_folder`; a finished run is written at once, so that a killed demo goes on.
        command: What to type to get the same.
        observer: Is told how it goes.

    Returns:
        The results and the trained models.

    Raises:
        ValueError: If a setting does not fit the data or the machine.
        RuntimeError: If a loss is not finite.
        OSError: If the folder cannot be written.
    """
    evaluated = data.test if settings.evaluate_on == "test" else data.validation
    bench = _Bench(
        settings=settings,
        data=data,
        normalise=Normalisation.of(data.train.images),
        evaluated=evaluated,
        images=CorruptedImages(evaluated.images, seed=settings.corruption_seed),
        cells=benchmark_cells(settings.corruptions, settings.severities),
        device=_device(settings.device),
    )
    runs: dict[tuple[str, int], RunResult] = {}
    plan = [(variant, seed) for seed in settings.seed_range for variant in settings.variants_in_order]
    found = {key: _found_run(bench, folder, *key, observer) for key in plan}
    left = sum(run is None for run in found.values())
    observer.expect(left * (bench.training_work + bench.evaluation_work))
    for variant, seed in plan:
        run = found[variant, seed]
        if run is None:
            steps = _equal_time_steps(runs, seed) if variant == EQUAL_TIME else None
            run = _do_run(bench, folder, variant, seed, steps, observer)
            folder.keep_run(run)
        runs[variant, seed] = run
    result = DemoResult(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        versions=versions(),
        hardware=hardware(bench.device),
        settings={**settings.to_json(), "data_name": data.name, "counts": _counts(data)},
        corruptions=_describe_corruptions(bench),
        runs=tuple(runs.values()),
    )
    write_report(result.to_json(), _examples(bench), folder.report)
    # last: a folder with results is a finished one
    result.save(folder.results)
    return DemoOutcome(result, bench.models, data, bench.normalise, bench.images)


def _do_run(
    bench: _Bench, folder: DemoFolder, variant: Variant, seed: int, steps: int | None, observer: Observer
) -> RunResult:
    settings = bench.settings
    config = settings.training_with(seed, steps=steps)
    step_work = TRAINING_WORK * config.batch_size
    name = f"{variant}, seed {seed}"

    def on_step(step: Step) -> None:
        observer.advance(step_work)

    def on_cell(cell: Cell) -> None:
        observer.advance(len(bench.evaluated))

    model = _new_model(bench, variant, seed)
    observer.begin(f"{name}: training", step_work * config.total_steps(len(bench.data.train)))
    fitted = train_classifier(
        model,
        bench.data.train,
        config,
        normalise=bench.normalise,
        diversify=has_adl(variant),
        augmentation=settings.augmentation,
        on_step=on_step,
    )
    sha256 = save_weights(model, folder.weights(variant, seed))
    observer.begin(f"{name}: evaluating", bench.evaluation_work)
    count = partial(count_errors, normalise=bench.normalise)
    validation = bench.data.validation
    validation_errors = count(model, validation.images, validation.labels)
    observer.advance(len(validation))
    cells = evaluate_cells(
        {name: model}, bench.images, bench.evaluated.labels, bench.cells, count_errors=count, on_cell=on_cell
    )[name]
    bench.models[variant, seed] = model
    run = _run_result(variant, seed, model, fitted, sha256, validation_errors / len(validation), cells)
    return replace(
        run, attention=attention_numbers(model, bench.images, bench.cells, normalise=bench.normalise)
    )


def _run_result(
    variant: str,
    seed: int,
    model: nn.Module,
    fitted: FitResult,
    sha256: str,
    validation_error: float,
    cells: tuple[CellResult, ...],
) -> RunResult:
    return RunResult(
        variant=variant,
        seed=seed,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        epochs=fitted.epochs,
        steps=fitted.steps,
        training_seconds=fitted.seconds,
        step_seconds=fitted.median_step_seconds,
        weights_sha256=sha256,
        validation_error=validation_error,
        cells=cells,
        curve=tuple(
            {"step": point.step, "loss": point.loss, "learning_rate": point.learning_rate}
            for point in fitted.curve
        ),
    )


def _examples(bench: _Bench) -> ReportExamples:
    """What the page shows of the models of the first seed."""
    settings = bench.settings
    side = settings.model.image_size // settings.model.patch_size
    return collect_examples(
        {variant: bench.models[variant, settings.first_seed] for variant in settings.variants_in_order},
        bench.images,
        bench.evaluated.labels,
        bench.cells,
        class_names=bench.data.class_names,
        normalise=bench.normalise,
        grid_size=(side, side),
        seed=settings.first_seed,
    )


def _new_model(bench: _Bench, variant: Variant, seed: int) -> nn.Module:
    model = build_model(variant, bench.settings.model, num_classes=len(bench.data.class_names), seed=seed)
    return model.to(bench.device)


def _found_run(
    bench: _Bench, folder: DemoFolder, variant: Variant, seed: int, observer: Observer
) -> RunResult | None:
    """A run that an earlier start finished, its model loaded; None where it must be done (again)."""
    run = folder.finished_run(variant, seed)
    if run is None:
        return None
    model = _new_model(bench, variant, seed).eval()
    try:
        intact = load_weights(model, folder.weights(variant, seed)) == run.weights_sha256
    except (FileNotFoundError, ValueError):
        intact = False
    if not intact:
        observer.tell(f"{variant}, seed {seed}: finished earlier, but its weights are gone or damaged; again")
        return None
    observer.tell(f"{variant}, seed {seed}: finished earlier, kept")
    bench.models[variant, seed] = model
    return run


def _equal_time_steps(runs: Mapping[tuple[str, int], RunResult], seed: int) -> int:
    """Steps of plain that take as long as all steps of tap+adl did."""
    plain, robust = (runs[variant, seed] for variant in EQUAL_TIME_NEEDS)
    return max(1, round(robust.steps * robust.step_seconds / plain.step_seconds))


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"expected a device that torch can use here, such as cpu, got {name!r}: {reason}"
        ) from None
    return device


def _counts(data: ClassificationData) -> dict[str, int]:
    return {name: len(getattr(data, name)) for name in ("train", "validation", "test")}


def _describe_corruptions(bench: _Bench) -> dict[str, object]:
    size = bench.settings.model.image_size
    names = list(dict.fromkeys(cell.corruption for cell in bench.cells if cell.severity))
    published = sorted({constants_for(name, 1, size).published_size for name in names})
    return {
        "mode": "in_memory",
        "image_size": size,
        "constants": f"published for {' and '.join(map(str, published))} pixels, lengths scaled to {size}",
        "names": names,
        "severities": list(bench.settings.severities),
        "seed": bench.settings.corruption_seed,
    }
