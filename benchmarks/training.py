"""Our training loop against a minimal one of the same parts of timm, and what TAP and ADL cost in a step.

    OMP_NUM_THREADS=1 python benchmarks/training.py            write results/training.json
    OMP_NUM_THREADS=1 python benchmarks/training.py --quick    a step or two of each, a check that this runs

Both loops train the same model on the same images, with gradients clipped and weights averaged: ours is
`tapadl.training.engine` with what `tapadl train` puts into it, the other is `minimal_loop.py`. Each has one
process that reads. They take turns, some steps each; start-up and the first turns are not timed. "alone" is
a loop that gets one batch again and again, so that nothing but the loop is left. Float16 shows the scaler of
the loss. The loader share is the part of the time in which a loop waits for images.

Before anything is timed, both loops train without augmentation on the same images in the same order, which
the minimal one gets from a data set that is in the order of ours, and must end with the same averaged
weights, bit for bit.
"""

import argparse
import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from measure import Step, as_row, compare, environment, write_results
from minimal_loop import CPU, make_loader, minimal_loop
from photographs import write_photographs
from tapadl.data.embedded import load_embedded
from tapadl.tasks.classification.recipe import ClassificationRecipe
from tapadl.training.engine import train
from tapadl.training.parallel import joined
from tapadl.training.sampling import EpochBatches
from tapadl.training.settings import (
    AdlSettings,
    AugmentationSettings,
    DataSettings,
    ModelSettings,
    OptimizerSettings,
    Precision,
    ScheduleSettings,
    Settings,
    TapSettings,
    TrainingSettings,
)
from tapadl.training.state import TrainingState
from tapadl.training.step import Stepper
from tapadl.training.weight_average import WeightAverage
from turns import Pace, Turns

RESULTS = Path(__file__).parent / "results" / "training.json"
VIT, DEMO = "ViT-Ti/16 at 224, photographs", "demo model, built-in images"


class Case(NamedTuple):
    """What both loops train.

    Args:
        name: How the rows call it.
        settings: Of both.
        steps: Of a turn.
        pairs: Of turns that are timed.
        alone: Whether the loops get one batch again and again.
    """

    name: str
    settings: Settings
    steps: int
    pairs: int
    alone: bool = False


def photographs(folder: Path, precision: Precision = "float32", batch: int = 32) -> Settings:
    """ViT-Ti/16 from JPEG files, in the manner of DeiT.

    RandAugment has magnitude 7 instead of 9: from 10 on, which the noise of 9 reaches, timm's posterize asks
    Pillow 13 for 0 bits and fails.
    """
    augmentation = AugmentationSettings(
        auto_augment="rand-m7-mstd0.5-inc1", reprob=0.25, mixup=0.8, cutmix=1.0, label_smoothing=0.1
    )
    return _settings("vit_tiny_patch16_224", str(folder), augmentation, precision, batch)


def demo(precision: Precision = "float32") -> Settings:
    """The model and the images of the demo, as in `recipes/fashion_mnist_tiny.yaml`."""
    augmentation = AugmentationSettings(
        scale=(1, 1), ratio=(1, 1), color_jitter=0.2, label_smoothing=0.1, interpolation="bilinear"
    )
    return _settings("tapadl.demo.variants:demo_model", "embedded", augmentation, precision, 50)


def _settings(
    model: str, train: str, augmentation: AugmentationSettings, precision: Precision, batch: int
) -> Settings:
    return Settings(
        ModelSettings(model),
        DataSettings(train, workers=1),
        tap=TapSettings(enabled=False),
        adl=AdlSettings(enabled=False),
        augmentation=augmentation,
        optimizer=OptimizerSettings(clip_grad=1.0),
        schedule=ScheduleSettings(warmup_epochs=0),
        training=TrainingSettings(batch_size=batch, precision=precision, ema_decay=0.9999),
    )


def run_ours(settings: Settings, alone: bool, pace: Pace | None) -> Mapping[str, torch.Tensor]:
    """Train in our loop; the averaged weights."""
    with joined(CPU), tempfile.TemporaryDirectory() as folder:
        recipe = ClassificationRecipe.of(settings, CPU)
        make = recipe.ingredients.make_batches

        def make_batches(step: int) -> Iterator[Any]:
            batches = itertools.repeat(next(make(step))) if alone else make(step)
            return batches if pace is None else pace.watch(batches)

        ingredients = replace(recipe.ingredients, make_batches=make_batches)
        on_step = None if pace is None else pace.on_step
        return train(settings, ingredients, recipe.plan, Path(folder), CPU, on_step=on_step).weights


def run_minimal(
    settings: Settings, alone: bool, order: Sequence[int] | None, pace: Pace | None
) -> Mapping[str, torch.Tensor]:
    """Train in the minimal loop; the averaged weights."""
    with joined(CPU):
        recipe = ClassificationRecipe.of(settings, CPU)
    loader = make_loader(settings, recipe.built.preprocessing, order)
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    if alone:
        batches = itertools.repeat(next(batches))
    return minimal_loop(
        recipe.built.model,
        batches if pace is None else pace.watch(batches),
        settings,
        recipe.data.num_classes,
        recipe.plan.total_steps,
        (lambda step: None) if pace is None else pace.on_step,
    )


def check_same_weights(settings: Settings, steps: int) -> None:
    """That both loops end with the same weights where nothing is drawn but the order.

    Raises:
        SystemExit: If they do not.
    """
    augmentation = AugmentationSettings(
        scale=(1, 1), ratio=(1, 1), hflip=0, color_jitter=None, interpolation="bilinear"
    )
    training = replace(settings.training, max_steps=steps, ema_decay=0.9)
    data = replace(settings.data, workers=0)
    settings = replace(settings, data=data, augmentation=augmentation, training=training)
    places = EpochBatches(len(load_embedded().train.labels), training.batch_size, training.seed)
    order = [index for batch in places.micro_batches(0, steps) for _, index in batch]
    ours, theirs = run_ours(settings, False, None), run_minimal(settings, False, order, None)
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    if different:
        apart = max((ours[name] - theirs[name]).abs().max().item() for name in different)
        raise SystemExit(
            f"expected the same weights from both loops in {training.precision}, got {len(different)} of "
            f"{len(ours)} tensors that are up to {apart:.2g} apart; nothing was timed"
        )


def measure_loops(case: Case, warmup: int = 2) -> dict[str, Any]:
    """The row of both loops."""
    training = case.settings.training
    theirs = Turns(case.steps, run_minimal, case.settings, case.alone, None)
    ours = Turns(case.steps, run_ours, case.settings, case.alone)
    comparison = compare(theirs, ours, pairs=case.pairs, warmup=warmup)
    waiting = {"ours": ours.waiting_share(case.pairs), "minimal": theirs.waiting_share(case.pairs)}
    theirs.close()
    ours.close()
    comparison = replace(
        comparison,
        baseline_ms=round(comparison.baseline_ms / case.steps, 3),
        candidate_ms=round(comparison.candidate_ms / case.steps, 3),
    )
    row = as_row(
        comparison,
        what="a step of our loop against one of the minimal loop",
        case=case.name,
        precision=training.precision,
        batch=training.batch_size,
        steps_of_a_turn=case.steps,
        images_per_second=round(training.batch_size / comparison.candidate_ms * 1e3, 1),
        minimal_images_per_second=round(training.batch_size / comparison.baseline_ms * 1e3, 1),
        loader_share=None if case.alone else waiting,
    )
    shares = "" if case.alone else f"; waiting {waiting['ours']:.1%}, minimal {waiting['minimal']:.1%}"
    print(
        f"{case.name}, {training.precision}: {row['images_per_second']} images a second, "
        f"{comparison.speedup} x the minimal loop (quartiles {comparison.speedup_quartiles}; "
        f"{comparison.baseline_ms} -> {comparison.candidate_ms} ms a step{shares})",
        flush=True,
    )
    return row


def training_step(settings: Settings, *, tap: bool, adl: bool) -> Step:
    """A step of our loop on the same images again and again."""
    settings = replace(
        settings, tap=replace(settings.tap, enabled=tap), adl=replace(settings.adl, enabled=adl)
    )
    recipe = ClassificationRecipe.of(settings, CPU)
    ingredients, model = recipe.ingredients, recipe.built.model.train()
    optimizer = ingredients.make_optimizer(model)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    average = WeightAverage(model, settings.training.ema_decay)
    state = TrainingState(model, optimizer, scaler, ingredients.objective, average)
    stepper = Stepper(settings, state, ingredients.make_schedule(optimizer), model, CPU)
    batches = next(ingredients.make_batches(0))

    def step() -> None:
        stepper.step(batches, settings.training.batch_size)
        state.step += 1

    return step


def measure_cost(name: str, settings: Settings, pairs: int, repeats: int) -> list[dict[str, Any]]:
    """The rows of TAP and ADL."""
    settings = replace(settings, data=replace(settings.data, workers=0))
    rows = []
    with joined(CPU):
        plain = training_step(settings, tap=False, adl=False)
        for variant, tap, adl in (("TAP", True, False), ("ADL", False, True), ("TAP + ADL", True, True)):
            step = training_step(settings, tap=tap, adl=adl)
            comparison = compare(plain, step, pairs=pairs, warmup=1, repeats=repeats)
            low, high = comparison.speedup_quartiles
            row = as_row(
                comparison,
                what="a step of our loop with TAP and ADL against the plain step",
                case=name,
                precision=settings.training.precision,
                batch=settings.training.batch_size,
                variant=variant,
                cost=round(1 / comparison.speedup, 3),
                cost_quartiles=(round(1 / high, 3), round(1 / low, 3)),
            )
            rows.append(row)
            print(
                f"{name}, {variant}: {row['cost']} x the plain step (quartiles {row['cost_quartiles']}; "
                f"{comparison.baseline_ms} -> {comparison.candidate_ms} ms)",
                flush=True,
            )
    return rows


def main() -> None:
    """Check, measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a step or two of each; writes nothing")
    quick = parser.parse_args().quick
    load_before = environment()["load_average"]
    precisions: tuple[Precision, ...] = ("float32",) if quick else ("float32", "bfloat16", "float16")
    for precision in precisions:
        check_same_weights(demo(precision), steps=2 if quick else 10)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photographs(folder, 20 if quick else 1280)
        if quick:
            measure_loops(Case(VIT, photographs(folder, batch=2), 1, 1), warmup=1)
            measure_loops(Case(f"{DEMO}, alone", demo(), 2, 1, alone=True), warmup=1)
            measure_cost(DEMO, demo(), pairs=1, repeats=1)
            return
        # without instructions for it, half precision takes ten times as long on a CPU
        cases = [
            Case(f"{DEMO}, alone", demo(), 20, 15, alone=True),
            Case(f"{DEMO}, alone", demo("float16"), 4, 9, alone=True),
            Case(DEMO, demo(), 40, 7),
            Case(VIT, photographs(folder), 1, 9),
            Case(VIT, photographs(folder, "bfloat16", batch=4), 1, 7),
        ]
        rows = [measure_loops(case) for case in cases]
        rows += measure_cost(DEMO, demo(), pairs=11, repeats=8)
        rows += measure_cost(VIT, photographs(folder), pairs=7, repeats=1)
    write_results(RESULTS, rows=rows, load_average_before=load_before)


if __name__ == "__main__":
    main()
