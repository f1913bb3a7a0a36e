"""When does diverse attention help? All runs of the study, in the background, over as many starts as needed.

    python studies/attention/study.py                              all sections of fashion_mnist.yaml
    python studies/attention/study.py --sections main pooling      some of them
    python studies/attention/study.py --cost                       milliseconds a step of every row, in turns
    python studies/attention/study.py --plan studies/attention/imagenet.yaml --test imagenet/val
                                      --data.train imagenet/train --data.val imagenet/val --processes 1

Words it does not know are settings of `tapadl train` for every run. A finished run is a line of
results/attention/PLAN.jsonl and is not done again; a stopped one goes on from its last checkpoint in --out.
`python studies/attention/summary.py` makes tables and pictures of the lines.
"""

import argparse
import json
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from plan import RESULTS, Plan, Run, load_lines, load_plan
from poolings import attach_pooling
from regularisers import REGULARISERS
from tapadl.corruptions import CORRUPTIONS
from tapadl.data.embedded import EmbeddedImages
from tapadl.data.imagenet import image_folder
from tapadl.diagnostics import measure_focus, measure_stability
from tapadl.evaluation.plan import Images
from tapadl.evaluation.preprocessing import Preprocessing
from tapadl.evaluation.processes import find_device
from tapadl.evaluation.provenance import versions
from tapadl.evaluation.worker_processes import begin_worker
from tapadl.tasks.classification.recipe import ClassificationRecipe, make_mixing
from tapadl.tasks.classification.scores import Scores
from tapadl.training.arguments import parse
from tapadl.training.engine import LOG, Ingredients, train
from tapadl.training.log import RunLog
from tapadl.training.mixing import Mixing
from tapadl.training.objective import Batch, Objective, Parts, Pass
from tapadl.training.parallel import joined
from tapadl.training.settings import EvaluationSettings, Settings

CORRUPTED = tuple(name for name, corruption in CORRUPTIONS.items() if corruption.in_mce)
DIAGNOSED = 200  # images whose attention is looked at, or one of each class
COST_STEPS, COST_TURNS = 10, 9


class Regularised(Objective):
    """Cross entropy and one of the losses beside ADL.

    Args:
        mixing: Label smoothing, and what mixes images.
        regulariser: Called after each forward.
        weight: Of it.
    """

    def __init__(self, mixing: Mixing, regulariser: Callable[[], torch.Tensor], weight: float) -> None:
        self._mixing = mixing
        self._regulariser = regulariser
        self._weight = weight

    def passes(self, batch: Batch, step: int) -> Sequence[Pass]:
        """One, over the clean images."""
        images, targets = self._mixing(*batch)

        def run(model: nn.Module) -> Parts:
            cross_entropy = F.cross_entropy(model(images), targets)
            value = self._regulariser()
            parts = {"cross_entropy": cross_entropy.detach(), "regulariser": value.detach()}
            return {"loss": cross_entropy + self._weight * value, **parts}

        return [run]


def settings_of(plan: Plan, run: Run, words: Sequence[str]) -> Settings:
    """The recipe, changed."""
    changes = [
        f"--{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in run.settings.items()
    ]
    return parse(["--config", str(plan.recipe), *changes, f"--training.seed={run.seed}", *words])


def ingredients_of(recipe: ClassificationRecipe, settings: Settings, run: Run) -> Ingredients:
    """What the recipe gives, with the pooling or the loss that only this study knows."""
    ingredients = recipe.ingredients
    if pooling := run.extras.get("study.pooling"):
        attach_pooling(recipe.built.model, pooling)
    if regulariser := run.extras.get("study.regulariser"):
        mixing = make_mixing(settings.augmentation, recipe.data.num_classes)
        loss = REGULARISERS[regulariser](recipe.built.model)
        objective = Regularised(mixing, loss, run.extras["study.weight"])
        return replace(ingredients, objective=objective)
    return ingredients


def do_run(plan: Plan, run: Run, words: Sequence[str], out: Path) -> dict[str, Any]:
    """Train and measure, or go on with it; the line of the results."""
    torch.set_num_threads(1)
    settings = settings_of(plan, run, words)
    folder = out / f"{plan.name}-{sha256(run.changes.encode()).hexdigest()[:12]}-seed{run.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    device = find_device(settings.training.device)
    with joined(device):
        recipe = ClassificationRecipe.of(settings, device)
        model = recipe.built.model
        ingredients = ingredients_of(recipe, settings, run)
        identity = {
            "changes": run.changes,
            "seed": run.seed,
            "words": list(words),
            "recipe": plan.recipe.read_text(),
        }
        started = time.process_time()
        outcome = train(settings, ingredients, recipe.plan, folder, device, identity=identity)
        seconds = time.process_time() - started
        if not outcome.finished:
            raise KeyboardInterrupt
        model.load_state_dict(outcome.weights)
        line = {
            "changes": json.loads(run.changes),
            "seed": run.seed,
            "words": list(words),
            "steps": outcome.step,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "cpu_seconds": round(seconds, 1),
            "validation_error": [
                [entry["step"], round(1 - entry["top1"], 4)]
                for entry in RunLog(folder / LOG).lines()
                if entry["kind"] == "evaluation"
            ],
            **measure(plan, model.eval(), recipe.built.preprocessing, device),
            "versions": {name: versions()[name] for name in ("tapadl", "torch", "timm")},
        }
    shutil.rmtree(folder)
    return line


def measure(
    plan: Plan, model: nn.Module, preprocessing: Preprocessing, device: torch.device
) -> dict[str, Any]:
    """Errors on the test images, clean and by corruption, and what the attention looks like."""
    test = test_images(plan.test)
    cells = EvaluationSettings(corruptions=CORRUPTED, severities=plan.severities, images=plan.images)
    scores = Scores(test, cells, preprocessing, batch_size=250, num_workers=0, device=device)(model)
    classes = len(test.class_names)
    few = test.subset(max(DIAGNOSED // classes, 1) * classes)
    pixels = (
        torch.stack([preprocessing.prepare(few.image(index)) for index in range(len(few))]).to(device) / 255
    )
    focus = measure_focus(model, preprocessing.normalise(pixels))
    stability = measure_stability(
        model, pixels, CORRUPTED, [3], normalise=preprocessing.normalise, batch_size=50
    )
    layers = [layer.mean for layer in focus.layers]
    moved = [layer for cell in stability.corruptions for layer in cell.layers]
    return {
        "clean_error": round(1 - scores["top1"], 6),
        "corruption_error": {name: round(1 - scores[f"{name}_top1"], 6) for name in CORRUPTED},
        "attention": {
            "overlap": round(fmean(layer.overlap for layer in layers), 5),
            "cosine": round(fmean(layer.cosine for layer in layers), 5),
            "gini": round(fmean(layer.gini for layer in layers), 5),
            "effective_keys": round(fmean(layer.effective_keys for layer in layers), 3),
            "stability": round(fmean(layer.cosine for layer in moved), 5),
            "divergence": round(fmean(layer.divergence for layer in moved), 5),
        },
    }


def test_images(spec: str) -> Images:
    """What is measured at the end."""
    return EmbeddedImages.load() if spec == "embedded" else image_folder(Path(spec))


def missing(plan: Plan, sections: Sequence[str]) -> list[Run]:
    """The runs of these sections that have no line yet, each once."""
    done = load_lines(plan.name)
    wanted = [run for section in plan.sections if section.name in sections for run in section.runs()]
    return [run for run in dict.fromkeys(wanted) if run not in done]


def check_words(plan: Plan, words: Sequence[str]) -> None:
    """Exit unless the lines of the plan were made with the same settings for every run."""
    for line in load_lines(plan.name).values():
        if (others := line.get("words", [])) != list(words):
            raise SystemExit(
                f"expected the settings of the runs in {plan.name}.jsonl, {' '.join(others) or 'none'}, got "
                f"{' '.join(words) or 'none'}; give those, or copy the plan to a file of another name"
            )


def do_missing(plan: Plan, sections: Sequence[str], words: Sequence[str], out: Path, processes: int) -> None:
    """Every missing run, some at a time, each written as it ends."""
    check_words(plan, words)
    runs = missing(plan, sections)
    print(f"{len(runs)} runs to do", flush=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with ProcessPoolExecutor(processes, get_context("spawn"), initializer=begin_worker) as pool:
        futures = [pool.submit(do_run, plan, run, words, out) for run in runs]
        for count, future in enumerate(as_completed(futures), 1):
            try:
                line = future.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
            with (RESULTS / f"{plan.name}.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            left = timedelta(seconds=round((time.monotonic() - started) / count * (len(runs) - count)))
            corrupted = fmean(line["corruption_error"].values())
            print(
                f"[{count}/{len(runs)}, about {left} left] {line['changes']} seed {line['seed']}: "
                f"clean {line['clean_error']:.1%}, corrupted {corrupted:.1%}, {line['cpu_seconds']:.0f} s",
                flush=True,
            )


def measure_cost(plan: Plan, sections: Sequence[str], words: Sequence[str]) -> None:
    """Milliseconds a step of every row, all in turns of random order on one thread; beside the lines."""
    torch.set_num_threads(1)
    changes = dict.fromkeys(
        run.changes for section in plan.sections if section.name in sections for run in section.runs()
    )
    with joined(torch.device("cpu")):
        steppers = {text: steps_of(plan, Run(text, 0), words) for text in changes}
        times: dict[str, list[float]] = {text: [] for text in changes}
        order = random.Random(0)
        for turn in range(COST_TURNS + 1):
            for text, steps in order.sample(list(steppers.items()), len(steppers)):
                started = time.perf_counter()
                for _ in range(COST_STEPS):
                    next(steps)
                if turn:
                    times[text].append((time.perf_counter() - started) / COST_STEPS)
    rows = [{"changes": json.loads(text), "ms": round(1e3 * median(own), 3)} for text, own in times.items()]
    (RESULTS / f"{plan.name}-cost.json").write_text(json.dumps(rows, indent=1) + "\n")


def steps_of(plan: Plan, run: Run, words: Sequence[str]) -> Iterator[None]:
    """One step of training after the other, on the same batch."""
    settings = settings_of(plan, run, words)
    recipe = ClassificationRecipe.of(settings, torch.device("cpu"))
    ingredients = ingredients_of(recipe, settings, run)
    model = ingredients.model.train()
    optimizer = ingredients.make_optimizer(model)
    batch = next(iter(ingredients.make_batches(0)))[0]
    while True:
        for one_pass in ingredients.objective.passes(batch, 1):
            one_pass(model)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        yield


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plan", type=Path, default=Path(__file__).with_name("fashion_mnist.yaml"))
    parser.add_argument("--sections", nargs="+", help="names in the plan (default: all)")
    parser.add_argument("--test", help="folder of images to measure on at the end (default: as in the plan)")
    parser.add_argument("--out", type=Path, default=Path("runs/attention"), help="where unfinished runs are")
    parser.add_argument(
        "--processes", type=int, default=2, help="runs at a time, of a thread each (default 2)"
    )
    parser.add_argument("--cost", action="store_true", help="only measure what a step costs")
    arguments, words = parser.parse_known_args()
    plan = load_plan(arguments.plan)
    plan = replace(plan, test=arguments.test or plan.test)
    known = [section.name for section in plan.sections]
    sections = arguments.sections or known
    if unknown := sorted(set(sections) - set(known)):
        raise SystemExit(f"expected sections out of {', '.join(known)}, got {', '.join(unknown)}")
    if arguments.cost:
        measure_cost(plan, sections, words)
    else:
        do_missing(plan, sections, words, arguments.out, arguments.processes)


if __name__ == "__main__":
    main()
