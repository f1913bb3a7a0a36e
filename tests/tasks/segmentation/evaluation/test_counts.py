import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from tapadl.metrics import MeanIoU
from tapadl.tasks.segmentation.evaluation.counts import (
    class_iou,
    draw_images,
    interval,
    mean_iou,
    resampled,
)


@pytest.fixture
def masks():
    """Predictions and labels of six images in five classes, of which the last is never there."""
    draws = torch.Generator().manual_seed(3)
    predictions = torch.randint(0, 4, (6, 9, 7), generator=draws)
    labels = torch.where(torch.rand(6, 9, 7, generator=draws) < 0.6, predictions, 3 - predictions)
    labels[:, 0] = 255
    return predictions, labels


def count(predictions, labels):
    metric = MeanIoU(5)
    metric.update(predictions, labels)
    confusion = metric.counts.numpy()
    return np.stack((confusion.diagonal(), confusion.sum(0), confusion.sum(1)), axis=1)


def test_iou_from_counts_is_that_of_the_confusion_matrix(masks):
    metric = MeanIoU(5)
    metric.update(*masks)
    counts = count(*masks)
    np.testing.assert_allclose(class_iou(counts), metric.per_class(), rtol=1e-15)
    assert float(mean_iou(counts)) == pytest.approx(metric.compute(), abs=1e-15)


def test_a_resample_is_the_data_set_with_its_images_repeated(masks):
    predictions, labels = masks
    by_image = np.stack([count(*pair) for pair in zip(predictions, labels, strict=True)])
    weights = draw_images(6, seed=5, num_resamples=20)
    found = mean_iou(resampled(by_image, weights))
    for drawn, value in zip(weights, found, strict=True):
        places = torch.arange(6).repeat_interleave(torch.from_numpy(drawn).long())
        oracle = MulticlassJaccardIndex(num_classes=5, ignore_index=255, average="none")
        per_class = oracle(predictions[places], labels[places])
        # torchmetrics gives 0 to a class that is nowhere
        there = [place for place in range(5) if place in predictions[places] or place in labels[places]]
        assert value == pytest.approx(float(per_class[there].mean()), abs=1e-6)


def test_resamples_draw_as_many_images_and_follow_from_the_seed():
    weights = draw_images(7, seed=1, num_resamples=50)
    assert (weights.sum(axis=1) == 7).all()
    assert len(np.unique(weights, axis=0)) > 40
    assert np.array_equal(weights, draw_images(7, seed=1, num_resamples=50))
    assert not np.array_equal(weights, draw_images(7, seed=2, num_resamples=50))


def test_sums_of_pixels_are_exact():
    counts = np.full((2000, 3, 3), 2**21 - 1, dtype=np.uint32)
    assert (resampled(counts, draw_images(2000, seed=0, num_resamples=2)) == 2000 * (2**21 - 1)).all()


def test_interval_is_the_middle_of_the_resamples():
    assert interval(np.arange(101.0), level=0.9) == pytest.approx((5, 95))


def test_interval_of_the_mean_of_equal_images_is_as_wide_as_theory_says():
    """One class pair, all images of equal size: mIoU is then a mean over images, with a known spread."""
    hits = np.random.default_rng(0).binomial(100, 0.5, 400)
    # a class that is predicted nowhere but where it is right: IoU = hits / labelled
    counts = np.stack((hits, hits, np.full(400, 100)), axis=1)[:, None]
    low, high = interval(mean_iou(resampled(counts, draw_images(400, seed=0, num_resamples=4000))))
    expected = 2 * 1.96 * np.std(hits / 100) / 400**0.5
    assert high - low == pytest.approx(expected, rel=0.06)


def test_class_that_was_found_nowhere_takes_no_part():
    nothing = np.zeros((2, 3))
    assert np.isnan(class_iou(nothing)).all()
    assert np.isnan(mean_iou(nothing))
