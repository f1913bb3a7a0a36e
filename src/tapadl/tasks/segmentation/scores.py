"""What a segmenter scores while it trains: on clean scenes, and on a sample of corrupted ones."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2.functional import pil_to_tensor

from tapadl.corruptions import corrupt
from tapadl.data.segmentation import SegmentationFiles
from tapadl.evaluation.plan import CLEAN, Cell
from tapadl.evaluation.shown import Failure
from tapadl.metrics.segmentation import MeanIoU
from tapadl.tasks.segmentation.data import corruption_size
from tapadl.tasks.segmentation.inference import sliding_logits, whole_logits
from tapadl.tasks.segmentation.model import SegmenterDescription
from tapadl.training.settings import EvaluationSettings, Precision, SegmentationSettings

_SEED = 0

Place = tuple[SegmentationFiles, int, Cell]
"""One scene in one condition."""


@dataclass(frozen=True)
class Scores:
    """Called with a model in evaluation mode, its mean intersection over union, by name.

    "miou" of all scenes, clean; of each corruption "fog_miou" and so on, the mean over its severities;
    "corrupted_miou", the mean of these. Each scene is seen at its own size, and corrupted ones are the same
    every time, with the same draws.

    Args:
        files: To evaluate on.
        evaluation: Which corruptions, severities, and how many scenes of them.
        segmentation: The windows, and which data set it is.
        description: Of the model.
        num_workers: Processes that read and corrupt; changes no number.
        device: Where the model is.
        precision: Of the model, by autocast.
        on_shown: Called in the process with the scenes it has shown, and those it is to show in all.
    """

    files: SegmentationFiles
    evaluation: EvaluationSettings
    segmentation: SegmentationSettings
    description: SegmenterDescription
    num_workers: int
    device: torch.device
    precision: Precision = "float32"
    on_shown: Callable[[int, int], None] | None = None

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Every process calls it with its model, and gets the scores over all scenes."""
        places = self._places()
        metrics = {cell: MeanIoU(len(self.files.class_names)) for _, _, cell in places}
        work, counted = _share_of(places)
        shown = _ShownScenes(work, corruption_size(self.segmentation.dataset))
        loader = DataLoader(shown, batch_size=None, num_workers=self.num_workers)
        for done, made in enumerate(loader):
            if isinstance(made, Failure):
                raise made.error
            scene, mask = made
            answers = self._answers(model, scene[None].to(self.device)).cpu()
            if done < counted:
                metrics[work[done][2]].update(answers[0], mask)
            if self.on_shown is not None:
                self.on_shown(done + 1, len(work))
        for metric in metrics.values():
            metric.sync()
        try:
            found = {(cell.condition, cell.severity): metric.compute() for cell, metric in metrics.items()}
        except RuntimeError:
            raise ValueError(
                f"expected pixels that count in the masks of {self.files.root}, got none; look at what the "
                f"numbers in them mean"
            ) from None
        of_corruption = {
            name: fmean(found[name, severity] for severity in self.evaluation.severities)
            for name in self.evaluation.corruptions
        }
        scores = {"miou": found[CLEAN, 0]}
        if of_corruption:
            scores["corrupted_miou"] = fmean(of_corruption.values())
        return scores | {f"{name}_miou": score for name, score in of_corruption.items()}

    @torch.no_grad()
    def _answers(self, model: nn.Module, scenes: torch.Tensor) -> torch.Tensor:
        mean, std = (
            torch.tensor(values, device=self.device)[:, None, None]
            for values in (self.description.mean, self.description.std)
        )
        images = (scenes / 255 - mean) / std
        window, stride = self.segmentation.window, self.segmentation.stride
        low = getattr(torch, self.precision)
        with torch.autocast(self.device.type, dtype=low, enabled=low != torch.float32):
            logits = (
                whole_logits(model, images)
                if window is None
                else sliding_logits(model, images, window, stride or window)
            )
        return logits.argmax(dim=1)

    def _places(self) -> list[Place]:
        """All scenes clean, then the sample in each condition."""
        count = self.evaluation.images
        sample = self.files if count is None or count >= len(self.files) else self.files.subset(count)
        cells = [
            Cell(name, severity)
            for name in self.evaluation.corruptions
            for severity in self.evaluation.severities
        ]
        clean = [(self.files, index, Cell(CLEAN)) for index in range(len(self.files))]
        return clean + [(sample, index, cell) for index in range(len(sample)) for cell in cells]


def _share_of(places: Sequence[Place]) -> tuple[list[Place], int]:
    """What this process shows, as much as every other does, and how much of it counts.

    A sharded model needs all processes for each scene, so one that is through shows something again.
    """
    own = list(places[dist.get_rank() :: dist.get_world_size()])
    rounds = -(-len(places) // dist.get_world_size())
    return own + [places[-1]] * (rounds - len(own)), len(own)


class _ShownScenes(Dataset[tuple[torch.Tensor, torch.Tensor] | Failure]):
    """Scenes (3, H, W), uint8, as they look in their conditions, and the class of every pixel, (H, W)."""

    def __init__(self, places: Sequence[Place], image_size: int | None) -> None:
        self.places = places
        self.image_size = image_size

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, torch.Tensor] | Failure:
        files, index, cell = self.places[place]
        try:
            image, mask = files.pair(index)
        except (OSError, ValueError) as error:
            # torch would send a worker's traceback in place of what it says
            return Failure(error)
        scene = pil_to_tensor(image)
        if cell.condition != CLEAN:
            corrupted = corrupt(
                scene[None] / 255,
                cell.condition,
                cell.severity,
                seed=_SEED,
                indices=torch.tensor([files.positions[index]]),
                image_size=self.image_size,
            )
            scene = corrupted[0].mul_(255).round_().byte()  # as a stored benchmark is
        return scene, torch.from_numpy(mask)
