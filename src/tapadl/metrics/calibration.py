"""Whether a classifier is as often right as it is confident."""

from fractions import Fraction

import torch

from tapadl.metrics.metric import Metric, check_class_indices

# Confidences are summed as multiples of 2^-30: finer than a float32 softmax is exact, room for 2^33 samples.
_UNIT = 2**30


class ExpectedCalibrationError(Metric):
    """Gap between confidence and accuracy, in bins of equal width, weighted by their share of samples.

    `sum over bins of (samples in the bin / samples) * |mean confidence - accuracy|`, where the confidence is
    the largest probability and bin b of B holds confidences in ((b - 1) / B, b / B].

    Args:
        num_bins: Number of bins B.

    Raises:
        ValueError: If `num_bins` is below 1.

    Source: Naeini et al., AAAI 2015; Guo et al., "On Calibration of Modern Neural Networks", ICML 2017,
        arXiv:1706.04599, with 15 bins.

    Example:
        >>> metric = ExpectedCalibrationError()
        >>> metric.update(torch.tensor([[0.25, 0.75], [1.0, 0.0]]), torch.tensor([1, 0]))
        >>> metric.compute()
        0.125
    """

    def __init__(self, num_bins: int = 15) -> None:
        if num_bins < 1:
            raise ValueError(f"expected num_bins of at least 1, got {num_bins}")
        super().__init__(num_bins, 3)  # samples, right ones, summed confidence in units
        self.num_bins = num_bins

    def update(self, probabilities: torch.Tensor, labels: torch.Tensor) -> None:
        """Count a batch.

        Args:
            probabilities: (B, C), each row sums to 1; over the classes that can be answered.
            labels: (B,) classes.

        Raises:
            ValueError: If the shapes do not fit, a row is no distribution, or a label is no class.
            RuntimeError: After `sync`.
        """
        if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1]:
            raise ValueError(
                "expected probabilities of shape (B, C) and labels of shape (B,), "
                f"got {tuple(probabilities.shape)} and {tuple(labels.shape)}"
            )
        check_class_indices(labels, "labels", probabilities.shape[1])
        _check_distributions(probabilities)
        confidence, predicted = probabilities.max(dim=1)
        wide = torch.promote_types(confidence.dtype, torch.float32)
        units = (confidence.to(wide) * _UNIT).round().long().clamp(max=_UNIT)
        bins = (units * self.num_bins + _UNIT - 1) // _UNIT - 1
        values = torch.stack((torch.ones_like(units), (predicted == labels).long(), units), dim=1)
        counts = torch.zeros_like(self._counts, device=values.device)
        self.add_counts(counts.index_add(0, bins, values))

    def compute(self) -> float:
        """The expected calibration error, 0..1.

        Raises:
            RuntimeError: If nothing was counted.
        """
        rows = self._total().tolist()
        gap = sum(abs(right * _UNIT - confidence) for _, right, confidence in rows)
        return float(Fraction(gap, _UNIT * sum(samples for samples, _, _ in rows)))

    def bins(self) -> list[tuple[int, float, float]]:
        """Samples, mean confidence and accuracy of every bin that holds a sample: a reliability diagram.

        Raises:
            RuntimeError: If nothing was counted.
        """
        return [
            (samples, confidence / _UNIT / samples, right / samples)
            for samples, right, confidence in self._total().tolist()
            if samples
        ]


def expected_calibration_error(
    probabilities: torch.Tensor, labels: torch.Tensor, num_bins: int = 15
) -> float:
    """Gap between confidence and accuracy, as `ExpectedCalibrationError` in one call.

    Args:
        probabilities: (B, C), each row sums to 1; over the classes that can be answered.
        labels: (B,) classes.
        num_bins: Number of bins of equal width.

    Returns:
        The expected calibration error, 0..1.

    Raises:
        ValueError: If the shapes do not fit, a row is no distribution, or a label is no class.
        RuntimeError: If there is no sample.

    Source: As of `ExpectedCalibrationError`.

    Example:
        >>> expected_calibration_error(torch.tensor([[0.25, 0.75], [1.0, 0.0]]), torch.tensor([0, 0]))
        0.375
    """
    metric = ExpectedCalibrationError(num_bins)
    metric.update(probabilities, labels)
    return metric.compute()


def _check_distributions(probabilities: torch.Tensor) -> None:
    """Half precision over a thousand classes sums to 1 within a percent; NaN fails both comparisons."""
    sums = probabilities.sum(dim=1, dtype=torch.promote_types(probabilities.dtype, torch.float32))
    if not ((probabilities >= 0).all() and ((sums - 1).abs() <= 0.01).all()):
        raise ValueError(
            "expected probabilities, at least 0 and each row with sum 1, got other numbers; "
            "logits need softmax(dim=1) first"
        )
