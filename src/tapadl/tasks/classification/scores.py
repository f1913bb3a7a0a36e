"""What a classifier scores while it trains: on clean images, and on a sample of corrupted ones."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from tapadl.evaluation.plan import CLEAN, Cell, Images, Part, Unit, units_of
from tapadl.evaluation.preprocessing import Preprocessing
from tapadl.evaluation.shown import ShownImages, load_shown
from tapadl.training.parallel import over_processes
from tapadl.training.settings import EvaluationSettings, Precision


@dataclass(frozen=True)
class Scores:
    """Called with a model in evaluation mode, the share of images it classifies rightly, by name.

    "top1" of all images, clean; of each corruption "fog_top1" and so on, the mean over its severities;
    "corrupted_top1", the mean of these. Corrupted images are the same ones every time, with the same draws.

    Args:
        images: To evaluate on.
        settings: Which corruptions, severities, and how many images of them.
        preprocessing: Of the model.
        batch_size: Images at a time.
        num_workers: Processes that read and corrupt; changes no number.
        device: Where the model is.
        precision: Of the model, by autocast.
        on_shown: Called in the process with the images it has shown, and those it is to show in all.
    """

    images: Images
    settings: EvaluationSettings
    preprocessing: Preprocessing
    batch_size: int
    num_workers: int
    device: torch.device
    precision: Precision = "float32"
    on_shown: Callable[[int, int], None] | None = None

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Every process calls it with its model, and gets the scores over all images."""
        parts = self._parts()
        cells = [(place, cell) for place, part in enumerate(parts) for cell in part.cells]
        correct = torch.zeros(len(cells), dtype=torch.float64)
        work, counted = self._share_of(parts)
        shown_images = ShownImages(
            parts, [(unit, parts[unit.part].cells) for unit in work], self.preprocessing, seed=0
        )
        total = sum((unit.stop - unit.start) * len(parts[unit.part].cells) for unit in work)
        done = 0
        for shown in load_shown(shown_images, num_workers=self.num_workers):
            unit = shown.unit
            labels = torch.tensor(parts[unit.part].images.labels[unit.start : unit.stop])
            hits = (self._answers(model, shown.images).cpu() == labels).sum()
            if unit in counted:
                correct[cells.index((unit.part, shown.cell))] += hits
            done += unit.stop - unit.start
            if self.on_shown is not None:
                self.on_shown(done, total)
        shares = {
            (cell.condition, cell.severity): value / len(parts[place].images)
            for (place, cell), value in zip(cells, over_processes(correct), strict=True)
        }
        scores = {"top1": shares[CLEAN, 0]}
        of_corruption = {
            name: float(np.mean([shares[name, severity] for severity in self.settings.severities]))
            for name in self.settings.corruptions
        }
        if of_corruption:
            scores["corrupted_top1"] = float(np.mean(list(of_corruption.values())))
        return scores | {f"{name}_top1": share for name, share in of_corruption.items()}

    @torch.no_grad()
    def _answers(self, model: nn.Module, images: torch.Tensor) -> torch.Tensor:
        low = getattr(torch, self.precision)
        with torch.autocast(self.device.type, dtype=low, enabled=low != torch.float32):
            logits: torch.Tensor = model(self.preprocessing.normalise(images.to(self.device) / 255))
        return logits.argmax(dim=1)

    def _parts(self) -> list[Part]:
        parts = [Part(self.images, (Cell(CLEAN),), "in_memory")]
        corrupted = tuple(
            Cell(name, severity)
            for name in self.settings.corruptions
            for severity in self.settings.severities
        )
        if corrupted:
            parts.append(Part(self._sample(), corrupted, "in_memory"))
        return parts

    def _sample(self) -> Images:
        """As many images of each class, as near to the number asked for as the smallest class allows.

        All images where a class has none.
        """
        count, classes = self.settings.images, len(self.images.class_names)
        if count is None or count >= len(self.images):
            return self.images
        by_class = Counter(self.images.labels)
        smallest = min(by_class[label] for label in range(classes))
        if not smallest:  # of a class without images there is no equal share
            return self.images
        return self.images.subset(min(max(count // classes, 1), smallest) * classes)

    def _share_of(self, parts: list[Part]) -> tuple[list[Unit], set[Unit]]:
        """The units of this process, of each part as many as every other has, and those it counts.

        A sharded model needs all processes for each batch, so one that is through shows something again.
        """
        rank, world_size = dist.get_rank(), dist.get_world_size()
        work: list[Unit] = []
        counted: set[Unit] = set()
        units = units_of(parts, self.batch_size)
        for place in range(len(parts)):
            of_part = [unit for unit in units if unit.part == place]
            own = of_part[rank::world_size]
            rounds = -(-len(of_part) // world_size)
            work += own if len(own) == rounds else [*own, of_part[-1]]
            counted |= set(own)
        return work, counted
