import numpy as np
import pytest

from tapadl.evaluation.plan import Cell
from tapadl.evaluation.record import Record
from tapadl.tasks.segmentation.evaluation.counts import class_iou, draw_images, mean_iou
from tapadl.tasks.segmentation.evaluation.summary import iou_by_class, metrics_of, resampled_metrics

# IoU 0.5 and 0.25 of two classes; and 0.75 and 0.25
HALF = np.array([[2, 3, 3], [1, 2, 3]])
MORE = np.array([[3, 4, 3], [1, 2, 3]])


def test_mean_under_corruption_is_over_severities_first():
    totals = {Cell("clean"): MORE, Cell("fog", 1): MORE, Cell("gaussian_noise", 1): HALF}
    totals |= {Cell("fog", 2): HALF, Cell("fog", 3): HALF}
    metrics = metrics_of(totals)
    fog, noise = (0.5 + 0.375 + 0.375) / 3, 0.375
    assert metrics["miou"] == pytest.approx(0.5)
    assert metrics["mean_corrupted_miou"] == pytest.approx((fog + noise) / 2)
    assert metrics["mean_corrupted_miou_weather"] == pytest.approx(fog)
    assert metrics["mean_corrupted_miou_noise"] == pytest.approx(noise)
    assert list(metrics)[:2] == ["miou", "mean_corrupted_miou"]
    fog_by_class = np.array([(0.75 + 0.5 + 0.5) / 3, 0.25])
    np.testing.assert_allclose(iou_by_class(totals)["corrupted"], (fog_by_class + np.array([0.5, 0.25])) / 2)


def test_all_of_the_weather_is_one_data_set():
    totals = {Cell("fog"): HALF, Cell("night"): 10 * MORE}
    metrics = metrics_of(totals)
    assert metrics["miou"] == pytest.approx(float(mean_iou(HALF + 10 * MORE)))
    assert metrics["miou_fog"] == pytest.approx(0.375)
    assert metrics["miou_night"] == pytest.approx(0.5)
    assert "mean_corrupted_miou" not in metrics
    np.testing.assert_allclose(iou_by_class(totals)["all"], class_iou(HALF + 10 * MORE))


def records(*cells, count):
    draws = np.random.default_rng(0)
    found = []
    for cell in cells:
        intersection = draws.integers(1, 50, (count, 4))
        outside = draws.integers(0, 50, (2, count, 4))
        pixels = np.stack((intersection, *(intersection + outside)), axis=2).astype(np.uint32)
        found.append(Record(cell, {"pixels": pixels}, {}))
    return found


def test_cells_of_an_image_are_drawn_together():
    found = records(Cell("clean"), Cell("fog", 1), Cell("snow", 2), count=6)
    values = resampled_metrics(found, seed=4)
    drawn = draw_images(6, seed=4)[17].astype(int)
    totals = {
        record.cell: np.repeat(record.items["pixels"].astype(int), drawn, axis=0).sum(axis=0)
        for record in found
    }
    for name, value in metrics_of(totals).items():
        assert values[name][17] == pytest.approx(float(value), abs=1e-15)


def test_each_condition_of_the_weather_draws_its_own_images():
    fog, night = *records(Cell("fog"), count=5), *records(Cell("night"), count=3)
    values = resampled_metrics([fog, night])
    parts = [
        np.repeat(record.items["pixels"].astype(int), draw_images(count, seed=seed)[9].astype(int), axis=0)
        for record, count, seed in ((fog, 5, 0), (night, 3, 1))
    ]
    assert values["miou"][9] == pytest.approx(float(mean_iou(sum(part.sum(axis=0) for part in parts))))
