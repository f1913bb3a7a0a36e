import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_calibration_error

from tapadl.metrics import ExpectedCalibrationError, expected_calibration_error


def answers(seed, num_classes=7, size=200, sharpness=2.0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(size, num_classes, generator=generator) * sharpness
    return logits.softmax(dim=1), torch.randint(num_classes, (size,), generator=generator)


def test_by_hand():
    probabilities = torch.tensor([[0.95, 0.05], [0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.5, 0.5]])
    labels = torch.tensor([0, 1, 1, 1, 1])
    # two bins: (0, 0.5] holds 0.5, wrong; (0.5, 1] holds 0.95, 0.9, 0.6, 0.7 with three right
    expected = (1 * abs(0 - 0.5) + 4 * abs(3 / 4 - (0.95 + 0.9 + 0.6 + 0.7) / 4)) / 5
    assert expected_calibration_error(probabilities, labels, num_bins=2) == pytest.approx(expected, abs=1e-7)
    metric = ExpectedCalibrationError(2)
    metric.update(probabilities, labels)
    found = [pytest.approx(row, abs=1e-6) for row in ((1, 0.5, 0.0), (4, (0.95 + 0.9 + 0.6 + 0.7) / 4, 0.75))]
    assert metric.bins() == found


def test_confidence_that_is_right_as_often_as_it_says_has_no_error():
    probabilities = torch.tensor([[0.75, 0.25]]).expand(4, 2)
    assert expected_calibration_error(probabilities, torch.tensor([0, 0, 0, 1])) == 0
    assert expected_calibration_error(probabilities, torch.tensor([1, 1, 1, 1])) == 0.75


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    num_bins=st.integers(1, 40),
    num_classes=st.integers(2, 30),
    sharpness=st.sampled_from([0.1, 1.0, 3.0]),
)
def test_equals_torchmetrics_which_sums_in_float32(seed, num_bins, num_classes, sharpness):
    probabilities, labels = answers(seed, num_classes, sharpness=sharpness)
    expected = multiclass_calibration_error(probabilities.double(), labels, num_classes, num_bins).item()
    assert expected_calibration_error(probabilities, labels, num_bins) == pytest.approx(expected, abs=1e-6)


def test_fifteen_bins_are_the_default():
    probabilities, labels = answers(0)
    expected = expected_calibration_error(probabilities, labels, num_bins=15)
    assert expected_calibration_error(probabilities, labels) == expected
    assert expected_calibration_error(probabilities, labels, num_bins=14) != expected
    assert ExpectedCalibrationError().num_bins == 15


def test_a_softmax_rounded_above_one_counts_in_the_last_bin():
    above = torch.tensor([[1.0, 0.0]]).nextafter(torch.tensor(2.0))
    assert above[0, 0] > 1
    assert expected_calibration_error(above, torch.tensor([0])) == 0


def test_full_confidence_counts_in_the_last_bin_where_torchmetrics_makes_one_more():
    probabilities = torch.tensor([[1.0, 0.0], [0.96, 0.04]])
    labels = torch.tensor([0, 1])
    assert expected_calibration_error(probabilities, labels, 2) == pytest.approx(abs(1.96 - 1) / 2)
    assert multiclass_calibration_error(probabilities, labels, 2, n_bins=2).item() == pytest.approx(0.48)
    labels = torch.tensor([1, 0])
    assert expected_calibration_error(probabilities, labels, 2) == pytest.approx(0.48)
    assert multiclass_calibration_error(probabilities, labels, 2, n_bins=2).item() == pytest.approx(0.52)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_precision_over_a_thousand_classes(dtype):
    probabilities, labels = answers(3, num_classes=1000, size=500)
    expected = expected_calibration_error(probabilities.double(), labels, 1)
    unit = torch.finfo(dtype).eps
    found = expected_calibration_error(probabilities.to(dtype), labels, 1)
    assert found == pytest.approx(expected, abs=max(unit, 2**-30))


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (
            [[2.0, -1.0]],
            [0],
            "expected probabilities, at least 0 and each row with sum 1, got other numbers; logits",
        ),
        ([[0.5, 0.4]], [0], "each row with sum 1, got other numbers"),
        ([[math.nan, 1.0]], [0], "each row with sum 1, got other numbers"),
        ([0.5, 0.5], [0, 1], r"expected probabilities of shape \(B, C\) .* got \(2,\) and \(2,\)"),
        ([[0.5, 0.5]], [0, 1], r"got \(1, 2\) and \(2,\)"),
        ([[0.5, 0.5]], [2], r"expected labels in 0\.\.1, got values from 2 to 2"),
        ([[0.5, 0.5]], [1.0], "expected labels as integers, class indices, got torch.float32"),
    ],
)
def test_what_are_no_probabilities_is_refused(probabilities, labels, message):
    metric = ExpectedCalibrationError()
    with pytest.raises(ValueError, match=message):
        metric.update(torch.tensor(probabilities), torch.tensor(labels))
    assert not metric.counts.any()


def test_no_bins_and_no_samples_are_refused():
    with pytest.raises(ValueError, match="expected num_bins of at least 1, got 0"):
        ExpectedCalibrationError(num_bins=0)
    with pytest.raises(
        RuntimeError, match=r"expected something counted before ExpectedCalibrationError\.compute"
    ):
        expected_calibration_error(torch.zeros(0, 3), torch.zeros(0).long())
