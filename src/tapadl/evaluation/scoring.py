"""From logits to what is counted in a cell."""

from collections.abc import Sequence

import numpy as np
import torch

from tapadl.evaluation.plan import Cell
from tapadl.evaluation.record import Record, Values
from tapadl.metrics import ExpectedCalibrationError, class_ranks, flip_probability, top5_distance


def score_images(cell: Cell, logits: torch.Tensor, labels: torch.Tensor) -> Record:
    """Which images are classified rightly, and how confident the model is.

    Args:
        cell: Where the images were shown.
        logits: (B, classes), of the classes that can be answered.
        labels: (B,), int64.

    Returns:
        "correct" for every image; the counts of the expected calibration error.

    Raises:
        RuntimeError: If a logit is NaN or infinite.
    """
    logits = logits.float()
    # -inf is a class that is ruled out
    if logits.isnan().any() or logits.isposinf().any():
        raise RuntimeError(
            f"expected numbers as logits in {cell.key}, got NaN or infinity; evaluate with "
            "--precision float32, or look at the weights"
        )
    calibration = ExpectedCalibrationError()
    calibration.update(logits.softmax(dim=1), labels)
    correct = (logits.argmax(dim=1) == labels).cpu().numpy()
    return Record(cell, {"correct": correct}, {"calibration": calibration.counts.cpu().numpy()})


IMAGENET_CLASSES = 1000


def restrict(logits: torch.Tensor, outputs: Sequence[int] | None, num_classes: int) -> torch.Tensor:
    """The logits of the classes that can be answered.

    Args:
        logits: (B, outputs of the model).
        outputs: The output of each class; None where class i is output i.
        num_classes: Classes of the images.

    Returns:
        (B, num_classes).

    Raises:
        ValueError: If the model has other outputs than the images have classes.
    """
    width = logits.shape[-1]
    # as many outputs as classes: a model of these classes alone
    if outputs is None or width == num_classes:
        if width != num_classes:
            raise ValueError(
                f"expected a model with {num_classes} outputs, one for each class of the images, "
                f"got {width}; evaluate a model that was trained on these classes"
            )
        return logits
    if width != IMAGENET_CLASSES:  # of 1,001 or 21,843 outputs others are at these places
        raise ValueError(
            f"expected the {IMAGENET_CLASSES} outputs of ImageNet-1k, or {num_classes} for the classes of "
            f"the images alone, got {width}; evaluate a model of ImageNet-1k"
        )
    return logits[..., torch.as_tensor(outputs, device=logits.device)]


def score_sequences(cell: Cell, logits: torch.Tensor) -> Record:
    """How often the answer flips along sequences of frames, and how far the top five move.

    Args:
        cell: Which perturbation; of noise every frame is compared with the first, else with the one before.
        logits: (B, frames, classes).

    Returns:
        "flips" and "distance" of every sequence, summed over its pairs of frames, and their number "pairs".
    """
    noise = "noise" in cell.condition
    ranks = class_ranks(logits)
    pairs = logits.shape[1] - 1
    flips = [flip_probability(each[None], noise=noise) * pairs for each in ranks.argmin(dim=-1)]
    distance = [top5_distance(each[None], noise=noise) * pairs for each in ranks]
    counts: dict[str, Values] = {
        "flips": np.rint(flips).astype(np.uint16),
        "distance": np.rint(distance).astype(np.uint16),
        "pairs": np.full(len(logits), pairs, dtype=np.uint16),
    }
    return Record(cell, counts, {})
