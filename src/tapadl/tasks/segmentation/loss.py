"""The training loss of segmentation."""

import torch
import torch.nn.functional as F

from tapadl.metrics.segmentation import IGNORE_INDEX


def pixel_cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    ignore_index: int = IGNORE_INDEX,
    count_ignored: bool = True,
) -> torch.Tensor:
    """Cross entropy summed over the labelled pixels, divided by the number of all pixels.

    Ignored pixels count in the divisor, as in the published training, so that a crop with few labels weighs
    less than one with many. The usual mean divides by the labelled pixels alone; it is 0 here where there are
    none.

    Args:
        logits: (B, num_classes, H, W).
        labels: Classes (B, H, W), int64, `ignore_index` where there is none.
        ignore_index: Label of pixels that add nothing.
        count_ignored: Whether the divisor counts them; False for the usual mean.

    Raises:
        ValueError: If the sizes differ.

    Source:
        MMSegmentation's cross entropy, `avg_non_ignore=False`.

    Example:
        >>> labels = torch.tensor([[[0, 255], [255, 255]]])
        >>> pixel_cross_entropy(torch.zeros(1, 2, 2, 2), labels)  # log(2) / 4
        tensor(0.1733)
        >>> pixel_cross_entropy(torch.zeros(1, 2, 2, 2), labels, count_ignored=False)
        tensor(0.6931)
    """
    if logits.ndim != 4 or labels.shape != (logits.shape[0], *logits.shape[2:]):
        raise ValueError(
            f"expected labels (B, H, W) of the size of the logits (B, num_classes, H, W), "
            f"got {tuple(labels.shape)} and {tuple(logits.shape)}"
        )
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # a million pixels overflow float16
    total = F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="sum")
    return total / (labels.numel() if count_ignored else (labels != ignore_index).sum().clamp(min=1))
