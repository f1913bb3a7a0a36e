"""How well masks fit: intersection over union, from one confusion matrix over the data set."""

import math
from statistics import fmean

import torch

from tapadl.metrics.metric import Metric, check_class_indices

IGNORE_INDEX = 255


class MeanIoU(Metric):
    """Mean over classes of intersection over union; `miou` in results.

    Pixels of all images go into one confusion matrix. A mean of per-image values is another number: it
    weighs an image's few pixels of a class as much as another's many. A class found neither in labels nor in
    predictions takes no part in the mean.

    Args:
        num_classes: Number of classes C, 19 for Cityscapes.
        ignore_index: Pixels with this label do not count, whatever was predicted; a class index leaves that
            class out of the mean. None counts every pixel.

    Raises:
        ValueError: If `num_classes` is below 1.

    Source: Everingham et al., "The PASCAL Visual Object Classes Challenge: A Retrospective", IJCV 2015;
        Cordts et al., "The Cityscapes Dataset", CVPR 2016, arXiv:1604.01685.

    Example:
        >>> metric = MeanIoU(num_classes=2)
        >>> metric.update(torch.tensor([[0, 0], [1, 1]]), torch.tensor([[0, 1], [1, 255]]))
        >>> metric.compute(), metric.per_class()
        (0.5, [0.5, 0.5])
    """

    def __init__(self, num_classes: int, ignore_index: int | None = IGNORE_INDEX) -> None:
        if num_classes < 1:
            raise ValueError(f"expected num_classes of at least 1, got {num_classes}")
        super().__init__(num_classes, num_classes)  # rows labels, columns predictions
        self.num_classes = num_classes
        self.ignore_index = ignore_index

    def update(self, predictions: torch.Tensor, labels: torch.Tensor) -> None:
        """Count the pixels of a batch.

        Args:
            predictions: Predicted classes, integers of any shape, such as (B, H, W).
            labels: Classes, the same shape.

        Raises:
            ValueError: If the shapes differ or a value is no class.
            RuntimeError: After `sync`.
        """
        if predictions.shape != labels.shape:
            raise ValueError(
                "expected predictions and labels of one shape, "
                f"got {tuple(predictions.shape)} and {tuple(labels.shape)}; logits need argmax(dim=1) first"
            )
        if self.ignore_index is not None:
            counted = labels != self.ignore_index
            predictions, labels = predictions[counted], labels[counted]
        check_class_indices(labels, "labels", self.num_classes)
        check_class_indices(predictions, "predictions", self.num_classes)
        pairs = labels.long().flatten() * self.num_classes + predictions.long().flatten()
        counts = torch.bincount(pairs, minlength=self.num_classes**2)
        self.add_counts(counts.view(self.num_classes, self.num_classes))

    def compute(self) -> float:
        """Mean over the classes that were found, 0..1.

        Raises:
            RuntimeError: If no pixel was counted.
        """
        return fmean(iou for iou in self.per_class() if not math.isnan(iou))

    def per_class(self) -> list[float]:
        """Intersection over union of each class, 0..1; NaN for one that takes no part in the mean.

        Raises:
            RuntimeError: If no pixel was counted.
        """
        counts = self._total()
        intersection = counts.diagonal()
        union = counts.sum(dim=0) + counts.sum(dim=1) - intersection
        values = intersection.double() / union
        if self.ignore_index is not None and 0 <= self.ignore_index < self.num_classes:
            values[self.ignore_index] = math.nan
        return [float(value) for value in values]


def mean_iou(
    predictions: torch.Tensor,
    labels: torch.Tensor,
    num_classes: int,
    ignore_index: int | None = IGNORE_INDEX,
) -> float:
    """Mean intersection over union of all masks together, as `MeanIoU` in one call.

    Args:
        predictions: Predicted classes, integers of any shape, such as (B, H, W).
        labels: Classes, the same shape.
        num_classes: Number of classes.
        ignore_index: Label of pixels that do not count.

    Returns:
        The mean over the classes found in labels or predictions, 0..1.

    Raises:
        ValueError: If the shapes differ or a value is no class.
        RuntimeError: If no pixel counts.

    Example:
        >>> mean_iou(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1]), num_classes=2)
        0.583...
    """
    metric = MeanIoU(num_classes, ignore_index)
    metric.update(predictions, labels)
    return metric.compute()
