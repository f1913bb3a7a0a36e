"""What each metric of an evaluation is, for readers who mix them up."""

from dataclasses import dataclass

from tapadl.evaluation.report.words import corruption_label, percent, signed


@dataclass(frozen=True)
class Measure:
    """A metric in words.

    Args:
        label: What pages call it.
        meaning: One sentence on what it is.
        in_percent: Whether it is a fraction that is written in percent.
    """

    label: str
    meaning: str
    in_percent: bool = True

    def text(self, value: float) -> str:
        """A value with its unit.

        Example:
            >>> Measure("Top-1 error", "").text(0.2345), Measure("", "", in_percent=False).text(1.234)
            ('23.4 %', '1.234')
        """
        return f"{percent(value)} %" if self.in_percent else f"{value:.3f}"

    def number(self, value: float) -> str:
        """A value without its unit."""
        return percent(value) if self.in_percent else f"{value:.3f}"

    def points(self, difference: float) -> str:
        """A difference with its sign, in percentage points where the metric is in percent."""
        return signed(100 * difference, 2) if self.in_percent else signed(difference, 3)


_MEASURES = {
    "error": Measure(
        "Top-1 error", "Images as they are whose first answer is wrong. Top-1 accuracy is 100 % minus it."
    ),
    "mean_corrupted_error": Measure(
        "Mean corrupted error",
        "Mean error over all corruptions and severities, divided by nothing; often called mean corruption "
        "error, too. Mean corrupted accuracy is 100 % minus it.",
    ),
    "mce": Measure(
        "mCE",
        "Error on each of the 15 corruptions divided by AlexNet's, then averaged: 100 % is as bad as "
        "AlexNet. No share of images.",
    ),
    "relative_mce": Measure(
        "Relative mCE",
        "How far errors rise above the clean error, divided by how far AlexNet's rise. A model that "
        "is bad on clean images can look good here.",
    ),
    "expected_calibration_error": Measure(
        "Calibration error",
        "Expected gap between confidence and accuracy on the images as they are, 15 bins.",
    ),
    "flip_probability": Measure(
        "Flip probability",
        "How often the first answer changes from frame to frame of a sequence (noise: from the first frame); "
        "mean over perturbations, not divided by AlexNet's.",
    ),
    "t5d": Measure(
        "Top-5 distance",
        "How far the five first answers move from frame to frame; mean over perturbations, not divided by "
        "AlexNet's. No percentage.",
        in_percent=False,
    ),
}


def measure(metric: str) -> Measure:
    """What a metric is, by its name in a result.

    Example:
        >>> measure("mce").label, measure("error_pgd").label, measure("flip_probability_snow").label
        ('mCE', 'Top-1 error under PGD', 'Flip probability, snow')
    """
    if metric in _MEASURES:
        return _MEASURES[metric]
    for family in ("mean_corrupted_error", "flip_probability", "t5d"):
        if metric.startswith(f"{family}_"):
            whole, part = _MEASURES[family], corruption_label(metric.removeprefix(f"{family}_"))
            kept = part if part.startswith("JPEG") else part.lower()
            return Measure(f"{whole.label}, {kept}", f"{whole.label} on {kept} alone.", whole.in_percent)
    name = corruption_label(metric.removeprefix("error_"))
    return Measure(f"Top-1 error under {name}", f"Images whose first answer is wrong after {name}.")
