"""Small scenes whose colours say their classes, and a segmenter that reads them."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tapadl.data.segmentation import LabelScheme, SegmentationFiles
from tapadl.evaluation.plan import Cell
from tapadl.evaluation.record import Record
from tapadl.tasks.segmentation.evaluation.result import BenchmarkResult, SegmentationResult
from tapadl.tasks.segmentation.evaluation.run import score
from tapadl.tasks.segmentation.model import LoadedSegmenter, SegmenterDescription

SCHEME = LabelScheme(
    ("road", "tree", "sky"), (7, 21, 23), (0,), ((128, 64, 128), (60, 160, 40), (70, 130, 180))
)
SIZES = ((24, 36), (31, 20), (24, 36), (17, 40), (28, 28))


class ColourReader(nn.Module):
    """Says for each pixel the class whose colour is nearest."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("colours", torch.tensor(SCHEME.colours, dtype=torch.float32) / 255)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return -4 * (images[:, None] - self.colours[None, :, :, None, None]).square().sum(dim=2)


def draw_mask(height: int, width: int, draws: np.random.Generator) -> np.ndarray:
    """Bands of the classes with a rectangle of another one, and some pixels that do not count."""
    mask = np.sort(draws.integers(0, 3, (height, 1)), axis=0).repeat(width, axis=1).astype(np.uint8)
    top, left = draws.integers(0, height // 2), draws.integers(0, width // 2)
    mask[top : top + height // 3, left : left + width // 3] = draws.integers(0, 3)
    mask[:2, :3] = 255
    return mask


def _write_scenes(root, count: int = 5, labelled: bool = True) -> SegmentationFiles:
    draws, noise = np.random.default_rng(0), 30
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        mask = draw_mask(*SIZES[index % len(SIZES)], draws)
        pixels = SCHEME.paint(mask).astype(int) + draws.integers(-noise, noise + 1, (*mask.shape, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / "images" / f"{index}_photo.png")
        values = np.where(mask == 255, 0, np.array([*SCHEME.values, *[0] * 253])[mask]).astype(np.uint8)
        Image.fromarray(values).save(root / "masks" / f"{index}_photo.png")
    images = tuple(f"images/{index}_photo.png" for index in range(count))
    masks = tuple(f"masks/{index}_photo.png" for index in range(count)) if labelled else ()
    return SegmentationFiles(root, images, masks, SCHEME)


@pytest.fixture(scope="session")
def scheme() -> LabelScheme:
    return SCHEME


@pytest.fixture(scope="session")
def segmenter() -> LoadedSegmenter:
    """Right wherever colours are not too noisy."""
    description = SegmenterDescription("ColourReader", SCHEME, (0.0,) * 3, (1.0,) * 3)
    return LoadedSegmenter("reader", ColourReader().eval(), description, "0a" * 32)


@pytest.fixture
def write_scenes() -> Callable[..., SegmentationFiles]:
    """Images and masks in files below a folder."""
    return _write_scenes


@pytest.fixture
def scenes(tmp_path) -> SegmentationFiles:
    return _write_scenes(tmp_path / "scenes")


@pytest.fixture
def make_result() -> Callable[..., SegmentationResult]:
    """A result of a segmenter that mistakes about so many pixels for others, more under corruption."""

    def make(
        *,
        name: str = "reader",
        error: float = 0.1,
        cells=None,
        count: int = 12,
        benchmark: str = "cityscapes-c",
        form: str = "in_memory",
        labelled: bool = True,
        fingerprint: str = "ab" * 32,
        seed: int = 0,
        window: int | None = None,
        frost: str = "photographs",
        weights: str = "0a" * 32,
    ) -> SegmentationResult:
        chosen = cells or [("clean", 0), ("fog", 1), ("fog", 3), ("gaussian_noise", 2)]
        records = []
        for condition, severity in chosen:
            rows = []
            for index in range(count):
                truth = torch.from_numpy(draw_mask(24, 20, np.random.default_rng(index)))
                draws = torch.Generator().manual_seed(1000 * index + severity + len(condition))
                wrong = torch.rand(truth.shape, generator=draws) < error * (1 + severity)
                predicted = torch.where(wrong, (truth.long() + 1) % 3, truth.long()).clamp(max=2)
                labels = truth if labelled else None
                rows.append(score(Cell(condition, severity), predicted, labels, 3))
            records.append(Record.join(rows))
        weather = all(not severity and condition != "clean" for condition, severity in chosen)
        images = {
            "count": count * (len(chosen) if weather else 1),
            "split": "val",
            "subset": None,
            "fingerprints": [fingerprint],
        }
        notes = {"constants_scaled": False, "constants_of_size": 224, "frost": frost}
        prediction = {
            "window": window,
            "stride": None,
            "flip": False,
            "scales": [1.0],
            "precision": "float32",
        }
        return SegmentationResult(
            created="2026-01-02T03:04:05+00:00",
            command=f"tapadl evaluate --task segmentation --model {name} --benchmark {benchmark}",
            versions={"python": "3.11", "tapadl": "0.1", "torch": "2.11"},
            hardware={"processor": "a processor", "cores": 2, "device": "cpu"},
            model={"name": name, "weights_sha256": weights, "parameters": "9"},
            settings={"seed": seed, "prediction": prediction},
            classes={"names": list(SCHEME.class_names), "colours": [list(one) for one in SCHEME.colours]},
            benchmarks=(
                BenchmarkResult(
                    benchmark, form, images, notes if form == "in_memory" else {}, tuple(records)
                ),
            ),
        )

    return make
