"""The demo from start to end: every variant with every seed, then the results and the page."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from torch import nn

from tapadl.corruptions import constants_for
from tapadl.data.fashion_mnist import ClassificationData
from tapadl.demo.attention import ReportExamples, collect_examples
from tapadl.demo.bench import Bench, Observer, run_name
from tapadl.demo.explorer import write_demo_explorer
from tapadl.demo.folder import DemoFolder
from tapadl.demo.report import write_report
from tapadl.demo.result import DemoResult, RunResult
from tapadl.demo.settings import Variant
from tapadl.demo.workers import run_side_by_side
from tapadl.evaluation.provenance import hardware, versions
from tapadl.training.weights import load_weights


@dataclass(frozen=True)
class DemoOutcome:
    """What `run_demo` gives.

    Args:
        result: As written to `results.json`.
        models: The trained models by (variant, seed), in evaluation mode.
    """

    result: DemoResult
    models: Mapping[tuple[Variant, int], nn.Module]


def run_demo(
    bench: Bench,
    folder: DemoFolder,
    *,
    command: str,
    observer: Observer,
    data_root: Path | None = None,
    processes: int = 1,
) -> DemoOutcome:
    """Do every run that the folder does not hold yet, then write the results and the pages.

    Args:
        bench: What to compare, on which data.
        folder: From `open_folder`; a finished run is written at once, so that a killed demo goes on.
        command: What to type to get the same.
        observer: Is told how it goes.
        data_root: Where other processes find the data again; as in `load_data`.
        processes: Runs at once; 1 does them in this process. A run has one thread where there are several,
            so that what it finds does not depend on what runs beside it.

    Returns:
        The results and the trained models.

    Raises:
        ValueError: If a setting does not fit the data or the machine.
        RuntimeError: If a loss is not finite.
        OSError: If the folder cannot be written.
    """
    settings = bench.settings
    plan = [(variant, seed) for seed in settings.seed_range for variant in settings.variants]
    kept = {key: found for key in plan if (found := _kept_run(bench, folder, *key, observer)) is not None}
    missing = [key for key in plan if key not in kept]
    observer.expect(len(missing) * bench.work_per_run)
    if min(processes, len(missing)) > 1:
        run_side_by_side(
            settings, data_root, folder, missing, processes=min(processes, len(missing)), observer=observer
        )
    else:
        for variant, seed in missing:
            bench.do_run(folder, variant, seed, observer)
    kept |= {key: _load_run(bench, folder, *key) for key in missing}

    result = DemoResult(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        versions=versions(),
        hardware=hardware(bench.device),
        settings={**settings.to_json(), "data_name": bench.data.name, "counts": _counts(bench.data)},
        corruptions=_describe_corruptions(bench),
        runs=tuple(kept[key][0] for key in plan),
    )
    models = {key: model for key, (_, model) in kept.items()}
    write_demo_explorer(
        bench, {variant: models[variant, settings.first_seed] for variant in settings.variants}, folder
    )
    examples = replace(_examples(bench, models), explorer=folder.explorer.name)
    write_report(result.to_json(), examples, folder.report)
    # last: a folder with results is a finished one
    result.save(folder.results)
    return DemoOutcome(result, models)


def _kept_run(
    bench: Bench, folder: DemoFolder, variant: Variant, seed: int, observer: Observer
) -> tuple[RunResult, nn.Module] | None:
    """A run that an earlier start finished; None where it must be done (again)."""
    name = run_name(variant, seed)
    try:
        run = folder.finished_run(variant, seed)
    except (OSError, ValueError):
        observer.tell(f"{name}: finished earlier, but its result is damaged or of another job; again")
        return None
    if run is None:
        return None
    try:
        found = _load_run(bench, folder, variant, seed)
    except (OSError, ValueError):
        observer.tell(f"{name}: finished earlier, but its weights are gone or damaged; again")
        return None
    observer.tell(f"{name}: finished earlier, kept")
    return found


def _load_run(bench: Bench, folder: DemoFolder, variant: Variant, seed: int) -> tuple[RunResult, nn.Module]:
    run = folder.finished_run(variant, seed)
    weights = folder.weights(variant, seed)
    model = bench.new_model(variant, seed).eval()
    if run is None or load_weights(model, weights) != run.weights_sha256:
        raise ValueError(f"expected the weights of {run_name(variant, seed)} in {weights}, got others")
    return run, model


def _examples(bench: Bench, models: Mapping[tuple[Variant, int], nn.Module]) -> ReportExamples:
    """What the page shows of the models of the first seed."""
    settings = bench.settings
    side = settings.model.image_size // settings.model.patch_size
    return collect_examples(
        {variant: models[variant, settings.first_seed] for variant in settings.variants},
        bench.images,
        bench.evaluated.labels,
        bench.cells,
        class_names=bench.data.class_names,
        normalise=bench.normalise,
        grid_size=(side, side),
        seed=settings.first_seed,
    )


def _counts(data: ClassificationData) -> dict[str, int]:
    return {name: len(getattr(data, name)) for name in ("train", "validation", "test")}


def _describe_corruptions(bench: Bench) -> dict[str, object]:
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
