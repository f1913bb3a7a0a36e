"""One data set for each metric, to be counted in any parts.

`python batches.py RANK FOLDER` counts uneven shares in two processes that meet through a file in FOLDER; each
saves what it computes there.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from tapadl.metrics import (
    CorruptionErrors,
    ExpectedCalibrationError,
    FlipProbability,
    MeanIoU,
    Top5Distance,
    class_ranks,
)
from tapadl.metrics.metric import Metric

SIZE = 12
GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(SIZE, 7, 9, generator=GENERATOR).cumsum(dim=1)
LABELS = torch.randint(9, (SIZE,), generator=GENERATOR)
MASKS = torch.randint(5, (2, SIZE, 6, 7), generator=GENERATOR)
MASKS[1, :, 0] = 255


class AllCells(CorruptionErrors):
    """Shows each image under every condition, as other classes in each."""

    def update(self, predictions, labels):
        super().update(predictions, labels, "clean", 0)
        for place, corruption in enumerate(self.corruptions):
            for severity in range(1, 6):
                super().update(predictions.roll(place + severity, dims=1), labels, corruption, severity)


CASES: dict[str, tuple[Callable[[], Metric], tuple[torch.Tensor, ...]]] = {
    "corruption errors": (lambda: AllCells(["fog", "snow"]), (LOGITS[:, 0], LABELS)),
    "flips": (lambda: FlipProbability(difficulty=2), (LOGITS.argmax(dim=-1),)),
    "flips of noise": (lambda: FlipProbability(noise=True), (LOGITS.argmax(dim=-1),)),
    "top five": (Top5Distance, (class_ranks(LOGITS),)),
    "masks": (lambda: MeanIoU(5), (MASKS[0], MASKS[1])),
    "calibration": (ExpectedCalibrationError, (LOGITS[:, 0].softmax(dim=-1), LABELS)),
}


def count(name: str, parts: list[torch.Tensor]) -> Metric:
    """The metric after one update a part; a part holds places in the data set."""
    make, data = CASES[name]
    metric = make()
    for part in parts:
        metric.update(*(values[part] for values in data))
    return metric


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    first, second, last = torch.arange(SIZE).split((5, 3, 4))
    computed = {}
    for name in CASES:
        uneven = count(name, [[first], [second, last]][rank])
        with torch.inference_mode():
            one_sided = count(name, [[], [first, second, last]][rank])
        for metric in (uneven, one_sided):
            metric.sync()
        computed[name] = (uneven.compute(), one_sided.compute())
    lengths = FlipProbability()
    lengths.update(torch.zeros(2, 5 + rank, dtype=torch.long))
    lengths.sync()
    try:
        lengths.compute()
    except RuntimeError as error:
        computed["mixed lengths"] = str(error)
    torch.save(computed, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
