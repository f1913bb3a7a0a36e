"""One run of a demo: a model trained, corrupted images shown to it, its attention looked at."""

import statistics
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol, Self

import torch
from torch import nn

from tapadl.data.embedded import load_embedded
from tapadl.data.fashion_mnist import ClassificationData, LabelledImages, load_full
from tapadl.demo.attention import attention_numbers
from tapadl.demo.cells import Cell, CorruptedImages, benchmark_cells, evaluate_cells
from tapadl.demo.folder import DemoFolder
from tapadl.demo.result import CellResult, RunResult
from tapadl.demo.settings import EQUAL_TIME, DemoSettings, Variant
from tapadl.demo.variants import build_model, has_adl
from tapadl.evaluation.processes import find_device
from tapadl.tasks.classification import Normalisation, count_errors, train_classifier
from tapadl.training.config import TrainingConfig
from tapadl.training.loop import FitResult, Step
from tapadl.training.weights import save_weights

# Work is counted in images through a model, forward; backward takes about twice that again.
TRAINING_WORK = 3

# plain-equal-time: so many short trainings of each kind in turn, and the steps of one.
_TIMING_ROUNDS, _TIMING_STEPS = 5, 12


class Observer(Protocol):
    """Who is told how a demo goes; several runs may be under way at once."""

    def expect(self, work: int) -> None:
        """So much work is left in all."""

    def begin(self, run: str, stage: str, work: int) -> None:
        """A stage of a run begins."""

    def advance(self, run: str, work: int) -> None:
        """So much of the stage is done."""

    def end(self, run: str) -> None:
        """A run is finished."""

    def tell(self, text: str) -> None:
        """A sentence for the reader."""


@dataclass(frozen=True)
class Bench:
    """What all runs of a demo share.

    Args:
        settings: What is compared.
        data: From `load_data`.
        normalise: What the models expect of their images.
        evaluated: The part of the data that is corrupted.
        images: That part in every cell.
        cells: Clean and corruption x severity.
        device: Where models are trained and evaluated.
    """

    settings: DemoSettings
    data: ClassificationData
    normalise: Normalisation
    evaluated: LabelledImages
    images: CorruptedImages
    cells: tuple[Cell, ...]
    device: torch.device

    @classmethod
    def of(cls, settings: DemoSettings, data: ClassificationData) -> Self:
        """The bench of a demo, on as much of the data as its settings ask for.

        Raises:
            ValueError: If a corruption, a severity or the device is unknown, or there are too few images.
        """
        data = _cut(data, settings)
        evaluated = data.test if settings.evaluate_on == "test" else data.validation
        return cls(
            settings=settings,
            data=data,
            normalise=Normalisation.of(data.train.images),
            evaluated=evaluated,
            images=CorruptedImages(evaluated.images, seed=settings.corruption_seed),
            cells=benchmark_cells(settings.corruptions, settings.severities),
            device=find_device(settings.device),
        )

    def check(self) -> None:
        """Find out before any work whether every variant can be trained on these data and this device.

        Raises:
            ValueError: If one cannot.
        """
        self.settings.training.total_steps(len(self.data.train))
        for variant in self.settings.variants:
            count_errors(
                self.new_model(variant, self.settings.first_seed),
                self.evaluated.images[:1],
                self.evaluated.labels[:1],
                normalise=self.normalise,
            )

    @property
    def work_per_run(self) -> int:
        """Images through a model in one run (a little more for plain-equal-time)."""
        training = self.settings.training
        steps = training.total_steps(len(self.data.train))
        return TRAINING_WORK * steps * training.batch_size + self.evaluation_work

    @property
    def evaluation_work(self) -> int:
        """The same in its evaluation."""
        return len(self.cells) * len(self.evaluated) + len(self.data.validation)

    def new_model(self, variant: Variant, seed: int) -> nn.Module:
        """The model of a run before training."""
        model = build_model(variant, self.settings.model, num_classes=len(self.data.class_names), seed=seed)
        return model.to(self.device)

    def do_run(self, folder: DemoFolder, variant: Variant, seed: int, observer: Observer) -> RunResult:
        """Train and evaluate one model; its weights are in the folder afterwards, and its result too.

        Raises:
            RuntimeError: If a loss is not finite.
            OSError: If the folder cannot be written.
        """
        name = run_name(variant, seed)
        config = self.settings.training_with(seed)
        if variant == EQUAL_TIME:
            observer.begin(name, "timing steps", 0)
            config = replace(config, steps=self._equal_time_steps(config))
        step_work = TRAINING_WORK * config.batch_size

        def on_step(step: Step) -> None:
            observer.advance(name, step_work)

        def on_cell(cell: Cell) -> None:
            observer.advance(name, len(self.evaluated))

        model = self.new_model(variant, seed)
        observer.begin(name, "training", step_work * config.total_steps(len(self.data.train)))
        fitted = self._train(model, variant, config, on_step=on_step)
        sha256 = save_weights(model, folder.weights(variant, seed))

        observer.begin(name, "evaluating", self.evaluation_work)
        count = partial(count_errors, normalise=self.normalise)
        validation = self.data.validation
        validation_errors = count(model, validation.images, validation.labels)
        observer.advance(name, len(validation))
        cells = evaluate_cells(
            {name: model}, self.images, self.evaluated.labels, self.cells, count_errors=count, on_cell=on_cell
        )[name]
        run = replace(
            _run_result(variant, seed, model, fitted, sha256, validation_errors / len(validation), cells),
            attention=attention_numbers(model, self.images, self.cells, normalise=self.normalise),
        )
        folder.keep_run(run)
        observer.end(name)
        return run

    def _train(
        self, model: nn.Module, variant: Variant, config: TrainingConfig, **options: object
    ) -> FitResult:
        return train_classifier(
            model,
            self.data.train,
            config,
            normalise=self.normalise,
            diversify=has_adl(variant),
            augmentation=self.settings.augmentation,
            **options,  # type: ignore[arg-type]
        )

    def _equal_time_steps(self, config: TrainingConfig) -> int:
        """Steps of plain that take as long as all steps of tap+adl.

        Both are timed in turn, so that the ratio does not depend on what else the machine does.
        """
        short = replace(config, steps=_TIMING_STEPS)
        ratios = []
        for _ in range(_TIMING_ROUNDS):
            plain, robust = (
                self._train(self.new_model(variant, config.seed), variant, short).median_step_seconds
                for variant in ("plain", "tap+adl")
            )
            ratios.append(robust / plain)
        return max(1, round(config.total_steps(len(self.data.train)) * statistics.median(ratios)))


def run_name(variant: str, seed: int) -> str:
    """What a run is called where people read it."""
    return f"{variant}, seed {seed}"


def load_data(
    settings: DemoSettings, data_root: Path | None = None, *, download: bool = False
) -> ClassificationData:
    """All of the data that a demo draws on.

    Args:
        settings: Which data.
        data_root: Folder of the original files, for "full".
        download: Let torchvision fetch them.

    Raises:
        ValueError: If "full" is asked for without a folder, or a file is damaged.
        FileNotFoundError: If a file is missing.
    """
    if settings.data == "embedded":
        return load_embedded()
    if data_root is None:
        raise ValueError(
            "expected --data-root with the folder of the original files for --data full, got none"
        )
    return load_full(data_root, download=download)


def _cut(data: ClassificationData, settings: DemoSettings) -> ClassificationData:
    train = settings.train_images or len(data.train)
    evaluation = settings.evaluation_images or max(len(data.test), len(data.validation))
    asked = (
        ("train_images", settings.train_images, len(data.train)),
        ("evaluation_images", settings.evaluation_images, len(getattr(data, settings.evaluate_on))),
    )
    for name, count, there in asked:
        if count is not None and count > there:
            raise ValueError(f"expected {name} of at most the {there} there are, got {count}")
    return ClassificationData(
        name=data.name,
        class_names=data.class_names,
        train=data.train.first(train),
        validation=data.validation.first(evaluation),
        test=data.test.first(evaluation),
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
