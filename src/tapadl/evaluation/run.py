"""Running a plan: every unit in every cell, in one process or shared by several."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypedDict, cast, get_args

import torch

from tapadl.evaluation import processes
from tapadl.evaluation.attacks import autoattack, fgsm, pgd
from tapadl.evaluation.ball import Norm
from tapadl.evaluation.loading import LoadedModel
from tapadl.evaluation.plan import Cell, Images, Part, Unit, units_of
from tapadl.evaluation.record import Record, UnitFile, join_cells
from tapadl.evaluation.scoring import restrict, score_images, score_sequences
from tapadl.evaluation.shown import Shown, ShownImages, load_shown

UNITS = "units"

Precision = Literal["float32", "bfloat16", "float16"]


class _Ball(TypedDict):
    eps: float
    norm: Norm


@dataclass(frozen=True)
class AttackSettings:
    """How strong attacks are.

    Args:
        eps: Largest distance from the clean image, of values in 0..1.
        norm: In which it is measured.
        steps: Of pgd.
    """

    eps: float = 1 / 255
    norm: Norm = "linf"
    steps: int = 10

    def __post_init__(self) -> None:
        if not self.eps > 0:
            raise ValueError(f"expected eps above 0, got {self.eps}")
        if self.norm not in get_args(Norm):
            raise ValueError(f"expected a norm out of {', '.join(get_args(Norm))}, got {self.norm!r}")
        if self.norm == "linf" and self.eps > 1:
            raise ValueError(
                f"expected eps of at most 1 in linf, for images are in 0..1, got {self.eps:g}; "
                f"{self.eps:g} of 255 steps are {self.eps:g}/255"
            )
        if self.steps < 1:
            raise ValueError(f"expected steps of at least 1, got {self.steps}")


@dataclass(frozen=True)
class RunSettings:
    """How a plan is run.

    Args:
        seed: Of corruptions, perturbations and attacks.
        batch_size: Images at a time; with other batches some kernels round differently.
        precision: Of the model; below float32 by autocast.
        compile: Run the model through torch.compile.
        attack: Strength of the attacks among the cells.
    """

    seed: int = 0
    batch_size: int = 64
    precision: Precision = "float32"
    compile: bool = False
    attack: AttackSettings = field(default_factory=AttackSettings)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"expected a batch_size of at least 1, got {self.batch_size}")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"expected a seed from 0 to 2**64 - 1, got {self.seed}")


@dataclass
class Clock:
    """Where the time went, in seconds: waiting for images, and in the model."""

    images: float = 0.0
    model: float = 0.0


def unit_file(parts: Sequence[Part], unit: Unit, folder: Path) -> UnitFile:
    """The file of a unit, with what it already holds.

    Raises:
        ValueError: If it is damaged.
    """
    name = f"{parts[unit.part].key}-{unit.start:08}-{unit.stop:08}.jsonl"
    return UnitFile(folder / UNITS / name)


def run_plan(
    parts: Sequence[Part],
    loaded: LoadedModel,
    folder: Path,
    settings: RunSettings,
    *,
    device: torch.device,
    num_workers: int = 0,
    on_progress: Callable[[int], None] | None = None,
    clock: Clock | None = None,
) -> None:
    """Show a model all that is still missing, and write the record of every cell of a unit as it is made.

    Under torchrun every process takes each world-size-th unit. What a unit gives does not depend on that,
    so neither does the result.

    Args:
        parts: The plan.
        loaded: The model.
        folder: Where the records go, the same for all processes.
        settings: Decide the numbers.
        device: Where the model runs.
        num_workers: Processes that read and corrupt images, beside this one; changes no number.
        on_progress: Called with the number of images shown, also of those that an earlier run has shown.
        clock: Is told where the time went.

    Raises:
        OSError: If an image cannot be read or a record not be written.
        ValueError: If the model does not fit the images, or a file of records is damaged.
    """
    tell = on_progress or (lambda count: None)
    clock = clock or Clock()
    files: dict[Unit, UnitFile] = {}
    work: list[tuple[Unit, tuple[Cell, ...]]] = []
    for unit in units_of(parts, settings.batch_size)[processes.rank() :: processes.world_size()]:
        file = unit_file(parts, unit, folder)
        missing = tuple(cell for cell in parts[unit.part].cells if cell not in file.records)
        tell((len(parts[unit.part].cells) - len(missing)) * (unit.stop - unit.start))
        if missing:
            files[unit] = file
            work.append((unit, missing))
    if not work:
        return
    model = _Answers(loaded, settings, device)
    shown_images = ShownImages(parts, work, loaded.preprocessing, seed=settings.seed)
    waited_from = time.perf_counter()
    for shown in load_shown(shown_images, num_workers=num_workers):
        shown_at = time.perf_counter()
        part = parts[shown.unit.part]
        files[shown.unit].add(model.record(shown, part))
        tell(shown.unit.stop - shown.unit.start)
        clock.images += shown_at - waited_from
        waited_from = time.perf_counter()
        clock.model += waited_from - shown_at


class _Answers:
    """A model on its device, from images (B, C, H, W) in 8 bits to what is counted of them."""

    def __init__(self, loaded: LoadedModel, settings: RunSettings, device: torch.device) -> None:
        self.settings = settings
        self.device = device
        self.preprocessing = loaded.preprocessing
        self.model = loaded.model.to(device).eval()
        if settings.compile:
            self.model = torch.compile(self.model)  # type: ignore[assignment]

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of images (B, C, H, W) in 0..1, float32."""
        low = getattr(torch, self.settings.precision)
        with torch.autocast(self.device.type, dtype=low, enabled=low != torch.float32):
            logits: torch.Tensor = self.model(self.preprocessing.normalise(images))
        return logits.float()

    def record(self, shown: Shown, part: Part) -> Record:
        """What is counted of images in a cell."""
        outputs, num_classes = part.images.outputs, len(part.images.class_names)
        images = shown.images.to(self.device)

        if part.sequences:
            # flips need no labels, so a folder with some of the classes will do
            with torch.inference_mode():
                logits = self.logits(images.flatten(0, 1) / 255).unflatten(0, images.shape[:2])
            return score_sequences(shown.cell, logits)

        def answer(batch: torch.Tensor) -> torch.Tensor:
            return restrict(self.logits(batch), outputs, num_classes)

        labels = torch.tensor(part.images.labels[shown.unit.start : shown.unit.stop], device=self.device)
        values = images / 255
        if shown.cell.condition in part.attacks:
            values = self._attacked(shown, part, answer, values, labels)
        with torch.inference_mode():
            return score_images(shown.cell, answer(values), labels)

    def _attacked(
        self,
        shown: Shown,
        part: Part,
        answer: Callable[[torch.Tensor], torch.Tensor],
        images: torch.Tensor,
        labels: torch.Tensor,
    ) -> torch.Tensor:
        """Images near the given ones on which the model is to be wrong."""
        strength, seed = self.settings.attack, self.settings.seed
        ball: _Ball = {"eps": strength.eps, "norm": strength.norm}
        indices = cast(Images, part.images).positions[shown.unit.start : shown.unit.stop]
        match shown.cell.condition:
            case "fgsm":
                return fgsm(answer, images, labels, **ball)
            case "pgd":
                return pgd(answer, images, labels, **ball, steps=strength.steps, seed=seed, indices=indices)
            case _:
                # its authors' package draws for a whole batch: a unit is one, whoever works on it
                batch = len(images)
                return autoattack(
                    answer, images, labels, **ball, seed=seed, indices=indices, batch_size=batch
                )


def collect(parts: Sequence[Part], folder: Path, settings: RunSettings) -> list[list[Record]]:
    """For every part the record of every cell, joined over its units.

    Raises:
        RuntimeError: If a record is missing.
    """
    files = [(unit, unit_file(parts, unit, folder)) for unit in units_of(parts, settings.batch_size)]
    return [
        join_cells(part.cells, [file for unit, file in files if unit.part == place])
        for place, part in enumerate(parts)
    ]
