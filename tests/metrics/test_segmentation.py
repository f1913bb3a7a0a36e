import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.classification import MulticlassJaccardIndex

from tapadl.metrics import MeanIoU, mean_iou


def masks(seed, num_classes, ignored=0.2, shape=(3, 9, 13)):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, shape, generator=generator)
    noise = torch.randint(num_classes, shape, generator=generator)
    predictions = torch.where(torch.rand(shape, generator=generator) < 0.6, labels, noise)
    labels[torch.rand(shape, generator=generator) < ignored] = 255
    return predictions, labels


def test_by_hand():
    predictions = torch.tensor([[[0, 0, 1], [1, 2, 2]]])
    labels = torch.tensor([[[0, 1, 1], [1, 255, 0]]])
    metric = MeanIoU(num_classes=4)
    metric.update(predictions, labels)
    # class 0: one right, one extra, one missed; 1: two right, one missed; 2: one extra; 3: nowhere
    assert metric.per_class() == pytest.approx([1 / 3, 2 / 3, 0, math.nan], nan_ok=True)
    assert metric.compute() == pytest.approx((1 / 3 + 2 / 3 + 0) / 3)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    num_classes=st.integers(2, 19),
    ignored=st.sampled_from([0.0, 0.2, 0.9]),
    ignore_index=st.sampled_from([255, 0, 1]),
)
def test_equals_the_jaccard_index_of_torchmetrics(seed, num_classes, ignored, ignore_index):
    predictions, labels = masks(seed, num_classes, ignored)
    if ignore_index != 255:
        labels[labels == 255] = ignore_index
    oracle = MulticlassJaccardIndex(num_classes, ignore_index=ignore_index)
    expected = oracle(predictions, labels).item()
    assert mean_iou(predictions, labels, num_classes, ignore_index) == pytest.approx(expected, abs=1e-6)


def test_without_ignored_label_every_pixel_counts():
    predictions, labels = masks(0, 5, ignored=0)
    assert mean_iou(predictions, labels, 5, ignore_index=None) == mean_iou(predictions, labels, 5)
    with pytest.raises(ValueError, match=r"expected labels in 0\.\.4, got values from 0 to 255"):
        mean_iou(predictions, masks(0, 5)[1], 5, ignore_index=None)


def test_it_is_one_matrix_over_all_images_not_a_mean_over_them():
    labels = torch.tensor([[0, 0, 0, 0], [0, 1, 1, 1]])
    predictions = torch.zeros_like(labels)
    metric = MeanIoU(2)
    for prediction, label in zip(predictions, labels, strict=True):
        metric.update(prediction, label)
    assert metric.compute() == pytest.approx((5 / 8 + 0) / 2)
    by_image = [mean_iou(p, m, 2) for p, m in zip(predictions, labels, strict=True)]
    assert sum(by_image) / 2 == pytest.approx((1 + (1 / 4 + 0) / 2) / 2)


def test_predictions_on_ignored_pixels_may_be_anything():
    predictions, labels = masks(1, 5)
    expected = mean_iou(predictions, labels, 5)
    predictions[labels == 255] = 255
    assert mean_iou(predictions, labels, 5) == expected


def test_masks_of_eight_bits_do_not_overflow():
    predictions, labels = masks(2, 19)
    assert mean_iou(predictions.byte(), labels.byte(), 19) == mean_iou(predictions, labels, 19)


@pytest.mark.parametrize(
    ("predictions", "labels", "message"),
    [
        (
            torch.zeros(2, 5, 4, 4),
            torch.zeros(2, 4, 4).long(),
            r"one shape, got \(2, 5, 4, 4\) and \(2, 4, 4\); logits",
        ),
        (
            torch.zeros(2, 4),
            torch.zeros(2, 4).long(),
            "expected predictions as integers, class indices, got torch.float32",
        ),
        (
            torch.zeros(4).long(),
            torch.zeros(4),
            "expected labels as integers, class indices, got torch.float32",
        ),
        (torch.tensor([5]), torch.tensor([0]), r"expected predictions in 0\.\.4, got values from 5 to 5"),
        (torch.tensor([0]), torch.tensor([-1]), r"expected labels in 0\.\.4, got values from -1 to -1"),
    ],
)
def test_what_are_no_masks_is_refused(predictions, labels, message):
    metric = MeanIoU(5)
    with pytest.raises(ValueError, match=message):
        metric.update(predictions, labels)
    assert not metric.counts.any()


def test_no_classes_and_no_pixels_are_refused():
    with pytest.raises(ValueError, match="expected num_classes of at least 1, got 0"):
        MeanIoU(0)
    with pytest.raises(RuntimeError, match=r"expected something counted before MeanIoU\.compute\(\)"):
        mean_iou(torch.zeros(4).long(), torch.full((4,), 255), 3)
