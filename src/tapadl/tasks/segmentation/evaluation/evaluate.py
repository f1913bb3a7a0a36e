"""From a segmenter and its benchmarks to a result: the plan, the job it makes, and what it found."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from tapadl.corruptions import frost_source
from tapadl.data.job_folder import JobKind
from tapadl.evaluation.evaluate import PAGE, RESULT
from tapadl.evaluation.provenance import hardware, versions
from tapadl.nn import TokenAwareAveragePooling
from tapadl.tasks.segmentation.evaluation.benchmarks import BENCHMARKS, Conditions, Part
from tapadl.tasks.segmentation.evaluation.result import SCHEMA, BenchmarkResult, SegmentationResult
from tapadl.tasks.segmentation.evaluation.run import UNITS, RunSettings, collect
from tapadl.tasks.segmentation.model import LoadedSegmenter

PREDICTIONS = "predictions"

JOB_KIND = JobKind(
    name="segmentation evaluation",
    schema=SCHEMA,
    parts=UNITS,
    made=rf"result\.json|report\.html|report\.md|{UNITS}/[0-9a-f]{{12}}-\d+-\d+\.jsonl",
    finished=RESULT,
    page=PAGE,
)

Plan = Mapping[str, Sequence[Part]]
"""The parts of every benchmark, by its name."""


def parts_of(plan: Plan) -> list[Part]:
    """All parts in one row."""
    return [part for parts in plan.values() for part in parts]


def shown_in(plan: Plan) -> int:
    """How often an image is shown in all: images x cells."""
    return sum(len(part.files) * len(part.cells) for part in parts_of(plan))


def check_classes(segmenter: LoadedSegmenter, plan: Plan) -> None:
    """Raise ValueError unless the segmenter knows the classes of all data sets, in their order."""
    own = segmenter.description.scheme.class_names
    for name, parts in plan.items():
        wanted = parts[0].files.class_names
        if own == wanted:
            continue
        if len(own) != len(wanted):
            first = f"{len(own)} classes ({', '.join(own[:3])}, ...)"
            raise ValueError(
                f"expected a segmenter of the {len(wanted)} classes of {name} "
                f"({', '.join(wanted[:3])}, ...), got one of {first}"
            )
        place = next(place for place, pair in enumerate(zip(own, wanted, strict=True)) if pair[0] != pair[1])
        raise ValueError(
            f"expected a segmenter of the classes of {name}, whose class {place} is {wanted[place]!r}, "
            f"got {own[place]!r} there"
        )


def check_labels(plan: Plan, *, predictions: bool) -> None:
    """Raise ValueError where nothing would come of a split: no labels to count with, no masks to write."""
    for name, parts in plan.items():
        if not predictions and not all(part.files.labelled for part in parts):
            raise ValueError(
                f"expected labels of {name}, but this split has none; add --predictions to write masks"
            )


def check_predictions(path: Path) -> None:
    """Raise FileExistsError if masks of an evaluation to overwrite would be taken for those of this one."""
    if (path / PREDICTIONS).exists():
        raise FileExistsError(
            f"expected no {PREDICTIONS} in {path}, found those of an earlier evaluation; remove that folder, "
            "or name another"
        )


def job_of(
    segmenter: LoadedSegmenter, plan: Plan, settings: RunSettings, *, predictions: bool
) -> dict[str, dict[str, Any]]:
    """What tells this evaluation from others: another model, other images or settings are another job."""
    description = segmenter.description
    return {
        "settings": {
            "model": segmenter.name,
            "weights": segmenter.weights_sha256,
            "normalisation": [list(description.mean), list(description.std)],
            "classes": list(description.scheme.class_names),
            "benchmarks": {name: [part.key for part in parts] for name, parts in plan.items()},
            "predictions": predictions,
            **asdict(settings),
            **({"frost": frost_source()} if _shows_frost(parts_of(plan)) else {}),
        },
        "versions": versions(),
    }


def summarise(
    segmenter: LoadedSegmenter,
    spec: str,
    plan: Plan,
    conditions: Conditions,
    settings: RunSettings,
    folder: Path,
    *,
    command: str,
    device: torch.device,
) -> SegmentationResult:
    """The result of a plan that was run to its end.

    Args:
        segmenter: The model.
        spec: How it was named.
        plan: What was shown.
        conditions: Which of the benchmarks that is.
        settings: How.
        folder: Where the records are.
        command: What to type to get it again.
        device: Where it ran.

    Raises:
        RuntimeError: If a record is missing.
    """
    records = iter(collect(parts_of(plan), folder))
    benchmarks: list[BenchmarkResult] = []
    for name, parts in plan.items():
        found = tuple(record for part in parts for record in next(records))
        weather = BENCHMARKS[name].kind == "conditions"
        images = {
            "count": sum(len(part.files) for part in parts) if weather else len(parts[0].files),
            "split": conditions.split,
            "subset": conditions.subset,
            "fingerprints": sorted({part.files.fingerprint for part in parts}),
        }
        form = parts[-1].form
        benchmarks.append(BenchmarkResult(name, form, images, _notes(parts), found))
        empty = [cell.key for cell, miou in benchmarks[-1].mious.items() if math.isnan(miou)]
        if empty:
            raise ValueError(
                f"expected labelled pixels in {empty[0]} of {name}, but none of them counts; "
                "look at the label files"
            )
    scheme = segmenter.description.scheme
    return SegmentationResult(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        versions=versions(),
        hardware=hardware(device),
        model=_facts(segmenter, spec),
        settings=json.loads(json.dumps(asdict(settings))),
        classes={"names": list(scheme.class_names), "colours": [list(colour) for colour in scheme.colours]},
        benchmarks=tuple(benchmarks),
    )


def _facts(segmenter: LoadedSegmenter, spec: str) -> dict[str, Any]:
    description = segmenter.description
    pooled = sum(isinstance(module, TokenAwareAveragePooling) for module in segmenter.model.modules())
    facts: dict[str, Any] = {
        "name": segmenter.name,
        "weights_sha256": segmenter.weights_sha256,
        "backbone": description.backbone,
        "tap": f"in {pooled} layers" if pooled else "none",
        "parameters": str(sum(parameter.numel() for parameter in segmenter.model.parameters())),
        "mean": list(description.mean),
        "std": list(description.std),
    }
    path = Path(spec)
    if path.is_file():
        # training calls all of them alike: the folder tells them apart
        facts["checkpoint"] = path.resolve().parent.name if path.stem == "model" else path.name
    return facts


def _notes(parts: Sequence[Part]) -> dict[str, Any]:
    """What else decides corrupted images that are made in memory."""
    made = [part for part in parts if part.form == "in_memory"]
    if not made:
        return {}
    constants = made[0].constants
    notes: dict[str, Any] = {"constants_scaled": constants is None}
    if constants is not None:
        notes["constants_of_size"] = constants
    if _shows_frost(parts):
        notes["frost"] = frost_source()
    return notes


def _shows_frost(parts: Sequence[Part]) -> bool:
    return any(cell.condition == "frost" for part in parts if part.form == "in_memory" for cell in part.cells)
