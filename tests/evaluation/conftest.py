"""Results that nobody measured, out of records with known answers."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from tapadl.corruptions import CORRUPTIONS
from tapadl.evaluation.benchmark_result import BenchmarkResult, EvaluationResult
from tapadl.evaluation.plan import Cell
from tapadl.evaluation.record import Record
from tapadl.metrics import ExpectedCalibrationError

IN_MCE = [name for name, corruption in CORRUPTIONS.items() if corruption.in_mce]
PERTURBATIONS = ("gaussian_noise", "motion_blur", "snow", "translate", "scale")
DIFFICULTY = np.random.default_rng(0).random(50_000)


def image_record(cell: Cell, error: float, count: int, seed: int) -> Record:
    """Images of which about `error` are wrong, the same hard ones first; and how confident a model was."""
    draws = np.random.default_rng([seed, len(cell.condition), ord(cell.condition[0]), cell.severity])
    correct = DIFFICULTY[:count] * 0.7 + draws.random(count) * 0.3 > np.clip(error, 0, 1) * 0.9
    calibration = ExpectedCalibrationError()
    confidence = torch.from_numpy(np.where(correct, draws.beta(6, 1.5, count), draws.beta(3, 3, count)))
    confidence = confidence.clamp(0.5, 1)
    calibration.update(
        torch.stack((confidence, 1 - confidence), dim=1), torch.from_numpy(np.where(correct, 0, 1))
    )
    return Record(cell, {"correct": correct}, {"calibration": calibration.counts.numpy()})


def sequence_record(name: str, rate: float, count: int, seed: int) -> Record:
    draws = np.random.default_rng([seed, len(name), ord(name[0])])
    counts = {
        "flips": draws.binomial(30, rate, count).astype(np.uint8),
        "distance": draws.binomial(300, rate, count).astype(np.uint16),
        "pairs": np.full(count, 30, dtype=np.uint8),
    }
    return Record(Cell(name), counts, {})


@pytest.fixture
def make_benchmark() -> Callable[..., BenchmarkResult]:
    """A benchmark by name, of a model that is wrong as often as `error` says on clean images."""

    def make(
        name: str = "imagenet-c",
        *,
        error: float = 0.2,
        count: int = 400,
        corruptions: Sequence[str] = IN_MCE,
        severities: Sequence[int] = (1, 2, 3, 4, 5),
        attacks: Sequence[str] = (),
        clean: bool = True,
        form: str | None = None,
        fingerprint: str = "ab" * 32,
        frost: str = "photographs",
        seed: int = 0,
    ) -> BenchmarkResult:
        images = {"count": count, "num_classes": 1000, "subset": None, "fingerprints": [fingerprint]}
        if name.endswith("-p"):
            records = [
                sequence_record(one, error / 5 + 0.01 * place, count, seed)
                for place, one in enumerate(PERTURBATIONS)
            ]
            return BenchmarkResult(name, form or "in_memory", images, {}, tuple(records))
        records = [image_record(Cell("clean"), error, count, seed)] if clean else []
        records += [image_record(Cell(attack), error + 0.3, count, seed) for attack in attacks]
        if name.endswith("-c"):
            for place, corruption in enumerate(corruptions):
                for severity in severities:
                    harm = severity * (0.04 + 0.006 * (place % 7))
                    records.append(image_record(Cell(corruption, severity), error + harm, count, seed))
        notes = {"image_size": [224, 224], "constants_of_size": 224, "lengths_scaled": False, "frost": frost}
        corrupted = name.endswith("-c")
        return BenchmarkResult(
            name,
            form or ("in_memory" if corrupted else "stored"),
            images,
            notes if corrupted else {},
            tuple(records),
        )

    return make


@pytest.fixture
def make_result() -> Callable[..., EvaluationResult]:
    """A result around benchmarks."""

    def make(
        *benchmarks: BenchmarkResult,
        model: str = "vit_tiny_patch16_224",
        weights: str = "0a" * 32,
        **settings,
    ) -> EvaluationResult:
        return EvaluationResult(
            created="2025-01-02T03:04:05+00:00",
            command=f"tapadl evaluate --model {model} --benchmark imagenet-c --data DIR",
            versions={"python": "3.11", "tapadl": "0.1", "torch": "2.11"},
            hardware={"processor": "a processor", "cores": 2, "device": "cpu"},
            model={"name": model, "weights_sha256": weights, "parameters": "5717416"},
            settings={
                "seed": 0,
                "batch_size": 64,
                "precision": "float32",
                "attack": {"eps": 1 / 255, "norm": "linf", "steps": 10},
                **settings,
            },
            benchmarks=benchmarks,
        )

    return make
