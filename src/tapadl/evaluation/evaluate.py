"""From a model and its benchmarks to a result: the plan, the job it makes, and what it found."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from tapadl.corruptions import CORRUPTIONS, constants_for, frost_source
from tapadl.corruptions.perturbations import sequence_constants
from tapadl.data.job_folder import JobKind
from tapadl.evaluation.benchmark_result import SCHEMA, BenchmarkResult, EvaluationResult
from tapadl.evaluation.loading import LoadedModel
from tapadl.evaluation.plan import Part
from tapadl.evaluation.provenance import hardware, versions
from tapadl.evaluation.run import UNITS, RunSettings, collect

RESULT = "result.json"
PAGE = "report.html"
TEXT = "report.md"

JOB_KIND = JobKind(
    name="evaluation",
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
    return sum(len(part.images) * len(part.cells) for part in parts_of(plan))


def job_of(loaded: LoadedModel, plan: Plan, settings: RunSettings) -> dict[str, dict[str, Any]]:
    """What tells this evaluation from others: another model, other images or settings are another job.

    Raises:
        ValueError: If the settings do not fit the plan.
    """
    if settings.precision == "float16" and any(part.attacks for parts in plan.values() for part in parts):
        raise ValueError(
            "expected precision float32 or bfloat16 for attacks, got float16, whose gradients vanish: an "
            "image that is not attacked would count as robust"
        )
    frost = {"frost": frost_source()} if _shows_frost(parts_of(plan)) else {}
    return {
        "settings": {
            "model": loaded.name,
            "weights": loaded.weights_sha256,
            "facts": dict(loaded.facts),
            "preprocessing": json.loads(json.dumps(asdict(loaded.preprocessing))),
            "benchmarks": {name: [part.key for part in parts] for name, parts in plan.items()},
            **asdict(settings),
            **frost,
        },
        "versions": versions(),
    }


def summarise(
    loaded: LoadedModel,
    plan: Plan,
    settings: RunSettings,
    folder: Path,
    *,
    command: str,
    device: torch.device,
    subset: int | None,
) -> EvaluationResult:
    """The result of a plan that was run to its end.

    Args:
        loaded: The model.
        plan: What was shown.
        settings: How.
        folder: Where the records are.
        command: What to type to get it again.
        device: Where it ran.
        subset: Images of each benchmark; None for all.

    Raises:
        RuntimeError: If a record is missing.
    """
    records = iter(collect(parts_of(plan), folder, settings))
    benchmarks = []
    for name, parts in plan.items():
        found = tuple(record for part in parts for record in next(records))
        first = parts[0]
        images = {
            "count": len(first.images),
            "num_classes": len(first.images.class_names),
            "subset": subset,
            "fingerprints": sorted({part.images.fingerprint for part in parts}),
        }
        notes = _notes(parts, loaded)
        benchmarks.append(BenchmarkResult(name, first.form, images, notes, found))
    return EvaluationResult(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        versions=versions(),
        hardware=hardware(device),
        model={
            "name": loaded.name,
            "weights_sha256": loaded.weights_sha256,
            **loaded.facts,
            "preprocessing": json.loads(json.dumps(asdict(loaded.preprocessing))),
        },
        settings=asdict(settings),
        benchmarks=tuple(benchmarks),
    )


def _notes(parts: Sequence[Part], loaded: LoadedModel) -> dict[str, Any]:
    """What else decides corrupted images that are made in memory."""
    side = min(loaded.preprocessing.image_size)
    constants = [
        sequence_constants(cell.condition, side)
        if part.sequences
        else constants_for(cell.condition, cell.severity, side)
        for part in parts
        if part.form != "stored"
        for cell in part.cells
        if part.sequences or cell.condition in CORRUPTIONS
    ]
    if not constants:
        return {}
    notes: dict[str, Any] = {
        "image_size": list(loaded.preprocessing.image_size),
        "constants_of_size": constants[0].published_size,
        "lengths_scaled": any(one.scaled for one in constants),
    }
    if _shows_frost(parts):
        notes["frost"] = frost_source()
    return notes


def _shows_frost(parts: Sequence[Part]) -> bool:
    """Whether frost, whose pictures may be the published ones or ours, is made in memory."""
    return any(cell.condition == "frost" for part in parts if part.form != "stored" for cell in part.cells)
