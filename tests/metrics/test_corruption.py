import itertools
import subprocess
import sys

import hypothesis.strategies as st
import pytest
from hypothesis import given

from tapadl.metrics.corruption import (
    Baseline,
    alexnet_baseline,
    corruption_error,
    mean_corrupted_error,
    mean_corrupted_error_by_group,
    mean_corruption_error,
    relative_mean_corruption_error,
)

# Mean AlexNet error of each corruption as published robust code bases divide by it.
PUBLISHED_MEANS = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}


def table(error):
    return {name: dict.fromkeys(range(1, 6), error) for name in alexnet_baseline().errors}


def test_alexnet_itself_has_exactly_one():
    alexnet = alexnet_baseline()
    assert mean_corruption_error(alexnet.errors) == 1.0
    assert relative_mean_corruption_error(alexnet.errors, alexnet.clean_error) == 1.0
    assert all(corruption_error(errors, errors) == 1.0 for errors in alexnet.errors.values())


def test_the_alexnet_table_has_the_published_means():
    means = {name: sum(errors.values()) / 5 for name, errors in alexnet_baseline().errors.items()}
    assert means == pytest.approx(PUBLISHED_MEANS, abs=1e-6)


def test_dividing_by_mean_errors_as_others_do_is_the_same_number():
    errors = table(0.3)
    expected = sum(0.3 / mean for mean in PUBLISHED_MEANS.values()) / 15
    assert mean_corruption_error(errors) == pytest.approx(expected, abs=1e-6)


def test_corruption_error_is_a_ratio_of_sums_not_a_mean_of_ratios():
    assert corruption_error({1: 0.1, 2: 0.4}, {1: 0.2, 2: 0.3}) == pytest.approx(1.0)
    assert corruption_error({1: 0.0}, {1: 0.5}) == 0


def test_relative_error_measures_what_is_lost_against_clean_images():
    baseline = Baseline(0.4, {"fog": {1: 0.5, 2: 0.7}, "contrast": {1: 0.5, 2: 0.5}})
    errors = {"fog": {1: 0.3, 2: 0.4}, "contrast": {1: 0.2, 2: 0.3}}
    assert relative_mean_corruption_error(errors, 0.2, baseline) == pytest.approx((0.3 / 0.4 + 0.1 / 0.2) / 2)
    unharmed = {name: {1: 0.2, 2: 0.2} for name in errors}
    assert relative_mean_corruption_error(unharmed, 0.2, baseline) == 0


@given(error=st.floats(0, 1), clean=st.floats(0, 1))
def test_constant_errors_have_a_closed_form(error, clean):
    assert mean_corrupted_error(table(error)) == pytest.approx(error)
    inverse = sum(1 / mean for mean in PUBLISHED_MEANS.values()) / 15
    assert mean_corruption_error(table(error)) == pytest.approx(error * inverse, rel=1e-5)
    relative_inverse = sum(1 / (mean - 0.435) for mean in PUBLISHED_MEANS.values()) / 15
    assert relative_mean_corruption_error(table(error), clean) == pytest.approx(
        (error - clean) * relative_inverse, rel=1e-4, abs=1e-12
    )


def test_corruptions_for_validation_take_no_part_in_mce_but_in_the_plain_mean():
    errors = table(0.5) | {"gaussian_blur": {1: 1.0}}
    assert mean_corruption_error(errors) == mean_corruption_error(table(0.5))
    assert mean_corrupted_error(errors) == pytest.approx((15 * 0.5 + 1) / 16)


def test_the_order_of_entries_does_not_matter():
    shuffled = {
        name: dict(reversed(errors.items())) for name, errors in reversed(alexnet_baseline().errors.items())
    }
    assert mean_corruption_error(shuffled) == 1.0


def test_each_corruption_counts_once_whatever_its_number_of_severities():
    assert mean_corrupted_error(
        {"fog": dict.fromkeys((1, 2, 3), 0.2), "contrast": {1: 0.6}}
    ) == pytest.approx(0.4)


def test_groups_are_averaged_on_their_own():
    errors = {"fog": {1: 0.5}, "contrast": {1: 0.2}, "snow": {1: 0.1, 2: 0.2}}
    groups = {"fog": "weather", "snow": "weather", "contrast": "digital", "frost": "weather"}
    by_group = mean_corrupted_error_by_group(errors, groups)
    assert by_group == pytest.approx({"weather": (0.5 + 0.15) / 2, "digital": 0.2})


@pytest.mark.parametrize("corruption", alexnet_baseline().errors)
def test_a_missing_corruption_is_named(corruption):
    errors = table(0.5)
    del errors[corruption]
    for metric in (mean_corruption_error, lambda e: relative_mean_corruption_error(e, 0.2)):
        with pytest.raises(ValueError, match=f"expected errors of all 15 .* got none for {corruption}; "):
            metric(errors)


@pytest.mark.parametrize(("corruption", "severity"), list(itertools.product(("fog", "pixelate"), (1, 5))))
def test_a_missing_severity_is_named(corruption, severity):
    errors = table(0.5)
    del errors[corruption][severity]
    with pytest.raises(
        ValueError, match=rf"errors of {corruption} at .*\[1, 2, 3, 4, 5\], .* missing: {severity}"
    ):
        mean_corruption_error(errors)


def test_a_severity_that_the_baseline_lacks_is_named():
    with pytest.raises(ValueError, match=r"severities of the baseline, \[1, 2\], got \[1, 2, 3\]$"):
        corruption_error({1: 0.1, 2: 0.1, 3: 0.1}, {1: 0.5, 2: 0.5})


@pytest.mark.parametrize("error", [-0.1, 1.5, 43.5, float("nan"), float("inf")])
def test_what_is_no_fraction_is_refused(error):
    message = (
        r"expected the error of fog at severity 2 to be a fraction in 0\.\.1, got .*; divide percent by 100"
    )
    errors = table(0.5)
    errors["fog"][2] = error
    with pytest.raises(ValueError, match=message):
        mean_corruption_error(errors)
    with pytest.raises(ValueError, match=message):
        mean_corrupted_error(errors)
    with pytest.raises(ValueError, match="expected clean_error to be a fraction"):
        relative_mean_corruption_error(table(0.5), error)


def test_empty_tables_and_unknown_groups_are_refused():
    with pytest.raises(ValueError, match="at least one corruption, got none"):
        mean_corrupted_error({})
    with pytest.raises(ValueError, match="at least one severity of fog, got none"):
        mean_corrupted_error({"fog": {}})
    with pytest.raises(ValueError, match="a group for each corruption, got none for fog"):
        mean_corrupted_error_by_group({"fog": {1: 0.5}}, {})
    nothing = Baseline(0.5, {})
    for metric in (mean_corruption_error, lambda e, b: relative_mean_corruption_error(e, 0.2, b)):
        with pytest.raises(ValueError, match="a baseline with errors of at least one corruption, got none"):
            metric(table(0.5), nothing)


def test_a_baseline_that_a_corruption_does_not_hurt_is_refused():
    baseline = Baseline(0.5, {"fog": {1: 0.5}})
    with pytest.raises(ValueError, match="expected the baseline to make errors because of fog"):
        relative_mean_corruption_error({"fog": {1: 0.6}}, 0.5, baseline)


def test_metrics_do_not_import_corruptions():
    code = (
        "import sys, tapadl.metrics.corruption; print([n for n in sys.modules if 'tapadl.corruptions' in n])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert run.stdout.strip() == "[]"
