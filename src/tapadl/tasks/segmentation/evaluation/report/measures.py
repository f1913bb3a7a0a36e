"""What each metric of a segmenter is, in words."""

from tapadl.evaluation.report.measures import Measure
from tapadl.evaluation.report.words import corruption_label

_MIOU = Measure(
    "mIoU",
    "Pixels in prediction and label, of those in either, added up over all images for each class; mean over "
    "classes.",
)
_CORRUPTED = Measure(
    "Mean corrupted mIoU", "mIoU under each corruption: mean over severities, then mean over corruptions."
)


def measure(metric: str) -> Measure:
    """What a metric is, by its name in a result.

    Example:
        >>> measure("miou").label, measure("miou_fog").label, measure("mean_corrupted_miou_noise").label
        ('mIoU', 'mIoU, fog', 'Mean corrupted mIoU, noise')
    """
    whole, part = _MIOU, metric.removeprefix("miou")
    if metric.startswith("mean_corrupted_miou"):
        whole, part = _CORRUPTED, metric.removeprefix("mean_corrupted_miou")
    if not part:
        return whole
    name = corruption_label(part.removeprefix("_")).lower()
    return Measure(f"{whole.label}, {name}", f"{whole.label} on {name} alone.")
