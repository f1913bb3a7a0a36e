import numpy as np
import pytest

from tapadl.tasks.segmentation.evaluation.compare import compare
from tapadl.tasks.segmentation.evaluation.counts import draw_images, mean_iou, resampled


def test_better_segmenter_is_told_apart_with_the_interval_of_paired_draws(make_result):
    worse, better = make_result(name="worse", error=0.12), make_result(name="better", error=0.08)
    (found,) = compare([worse, better]).by_benchmark["cityscapes-c"]
    by_name = {one.metric: one for one in found.differences}
    assert set(by_name) == set(worse.benchmarks[0].metrics)
    assert by_name["miou"].better == by_name["mean_corrupted_miou"].better == 1
    weights = draw_images(12, seed=0)
    drawn = [
        mean_iou(resampled(one.benchmarks[0].records[0].items["pixels"], weights)) for one in (better, worse)
    ]
    expected = np.quantile(drawn[0] - drawn[1], [0.025, 0.975])
    assert by_name["miou"].interval == pytest.approx(tuple(expected))


def test_same_weights_are_told_apart_by_nothing(make_result):
    (found,) = compare([make_result(), make_result()]).by_benchmark["cityscapes-c"]
    assert {one.better for one in found.differences} == {None}
    assert {one.interval for one in found.differences} == {(0.0, 0.0)}
    assert found.cautions == ("Both have the same weights.",)


def test_a_single_image_says_nothing_of_others(make_result):
    for count in (1, 2, 5):
        results = [make_result(count=count), make_result(count=count, error=0.3)]
        (found,) = compare(results).by_benchmark["cityscapes-c"]
        assert {(one.interval, one.better) for one in found.differences} == {(None, None)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 5}, "12 and 5 images"),
        ({"fingerprint": "cd" * 32}, "fingerprints differ"),
        ({"cells": [("clean", 0)]}, r"only one was shown \(fog/1, fog/3, gaussian_noise/2\)"),
        ({"seed": 1}, "seeds 0 and 1"),
        ({"frost": "procedural"}, "frost photographs and procedural"),
        ({"form": "stored"}, "in_memory and stored"),
        ({"labelled": False}, "predictions without labels"),
        ({"benchmark": "acdc"}, "a benchmark in common, got cityscapes-c of a; acdc of b"),
    ],
)
def test_other_images_or_conditions_are_refused(make_result, change, message):
    with pytest.raises(ValueError, match=message):
        compare([make_result(name="a"), make_result(name="b", **change)])


def test_other_windows_are_a_caution(make_result):
    (found,) = compare([make_result(), make_result(window=512, weights="1")]).by_benchmark["cityscapes-c"]
    assert found.cautions == ("The reference was asked in another way (window).",)
