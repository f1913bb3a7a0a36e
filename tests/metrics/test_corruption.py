import json
import subprocess
import sys

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from tapadl.metrics import (
    Baseline,
    CorruptionErrors,
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
    return {name: [error] * 5 for name in alexnet_baseline().errors}


def test_alexnet_itself_has_exactly_one():
    alexnet = alexnet_baseline()
    assert mean_corruption_error(alexnet.errors) == 1.0
    assert relative_mean_corruption_error(alexnet.errors, alexnet.clean_error) == 1.0
    assert all(corruption_error(errors, errors) == 1.0 for errors in alexnet.errors.values())


def test_the_alexnet_table_has_the_published_means():
    means = {name: sum(errors) / 5 for name, errors in alexnet_baseline().errors.items()}
    assert means == pytest.approx(PUBLISHED_MEANS, abs=1e-6)


def test_dividing_by_mean_errors_as_others_do_is_the_same_number():
    errors = table(0.3)
    expected = sum(0.3 / mean for mean in PUBLISHED_MEANS.values()) / 15
    assert mean_corruption_error(errors) == pytest.approx(expected, abs=1e-6)


def test_corruption_error_is_a_ratio_of_sums_not_a_mean_of_ratios():
    assert corruption_error([0.1, 0.4, 0, 0, 0], [0.2, 0.3, 0, 0, 0]) == pytest.approx(1)
    assert corruption_error([0.0] * 5, [0.5] * 5) == 0


def test_relative_error_measures_what_is_lost_against_clean_images():
    baseline = Baseline("mine", 0.4, {"fog": [0.5, 0.7, 0.5, 0.5, 0.5], "contrast": [0.5] * 5})
    errors = {"fog": [0.3, 0.4, 0.2, 0.2, 0.2], "contrast": [0.2, 0.3, 0.2, 0.3, 0.2]}
    relative = relative_mean_corruption_error(errors, clean_error=0.2, baseline=baseline)
    assert relative == pytest.approx((0.3 / 0.7 + 0.2 / 0.5) / 2)
    assert relative_mean_corruption_error(dict.fromkeys(errors, [0.2] * 5), 0.2, baseline) == 0


def test_a_baseline_comes_by_name_as_an_object_or_as_the_content_of_a_file():
    content = {"name": "mine", "clean_error": 0.1, "errors": {"fog": [0.2] * 5}}
    errors = table(0.3)
    read = json.loads(json.dumps(content))
    assert mean_corruption_error(errors, read) == mean_corruption_error(errors, Baseline(**content))
    assert mean_corruption_error(errors, read) == pytest.approx(1.5)
    assert relative_mean_corruption_error(errors, clean_error=0.2, baseline=read) == pytest.approx(1)
    assert mean_corruption_error(errors) == mean_corruption_error(errors, baseline="alexnet")
    assert mean_corruption_error(errors) == mean_corruption_error(errors, alexnet_baseline())


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
    errors = table(0.5) | {"gaussian_blur": [1.0] * 5}
    assert mean_corruption_error(errors) == mean_corruption_error(table(0.5))
    assert mean_corrupted_error(errors) == pytest.approx((15 * 0.5 + 1) / 16)
    assert mean_corrupted_error(errors, corruptions=alexnet_baseline().errors) == 0.5


def test_the_order_of_corruptions_does_not_matter():
    shuffled = {name: alexnet_baseline().errors[name] for name in reversed(alexnet_baseline().errors)}
    assert mean_corruption_error(shuffled) == 1.0


def test_each_corruption_counts_once_where_their_severities_may_differ():
    errors = {"fog": [0.2] * 3, "contrast": [0.6]}
    assert mean_corrupted_error(errors, num_severities=None) == pytest.approx(0.4)
    with pytest.raises(ValueError, match="expected errors of fog at 5 severities, got 3"):
        mean_corrupted_error(errors)


def test_groups_are_averaged_on_their_own():
    errors = {"fog": [0.5, 0.5], "contrast": [0.2, 0.2], "snow": [0.1, 0.2]}
    groups = {"fog": "weather", "snow": "weather", "contrast": "digital", "frost": "weather"}
    by_group = mean_corrupted_error_by_group(errors, groups, num_severities=2)
    assert by_group == pytest.approx({"weather": (0.5 + 0.15) / 2, "digital": 0.2})
    with pytest.raises(ValueError, match="fog at 5 severities, got 2"):
        mean_corrupted_error_by_group(errors, groups)


@pytest.mark.parametrize("corruption", alexnet_baseline().errors)
def test_a_missing_corruption_is_named(corruption):
    errors = table(0.5)
    del errors[corruption]
    metrics = (
        mean_corruption_error,
        lambda e: relative_mean_corruption_error(e, 0.2),
        lambda e: mean_corrupted_error(e, corruptions=alexnet_baseline().errors),
    )
    for metric in metrics:
        with pytest.raises(ValueError, match=f"expected errors of all 15 .* got none for {corruption}$"):
            metric(errors)


@pytest.mark.parametrize("number", [0, 4, 6])
def test_a_missing_or_surplus_severity_is_refused(number):
    errors = table(0.5) | {"fog": [0.5] * number}
    metrics = (
        mean_corruption_error,
        lambda e: relative_mean_corruption_error(e, 0.2),
        mean_corrupted_error,
        lambda e: Baseline("mine", 0.1, e),
    )
    for metric in metrics:
        with pytest.raises(ValueError, match=f"expected errors of fog.* at 5 severities, got {number}"):
            metric(errors)
    for pair in (([0.5] * number, [0.5] * 5), ([0.5] * 5, [0.5] * number)):
        with pytest.raises(ValueError, match=f"at 5 severities, got {number}"):
            corruption_error(*pair)


def test_errors_keyed_by_severity_are_refused():
    with pytest.raises(
        ValueError, match="errors of fog as a list by severity, got a mapping; pass its values"
    ):
        mean_corruption_error(table(0.5) | {"fog": dict.fromkeys(range(1, 6), 0.5)})


@pytest.mark.parametrize("error", [-0.1, 1.5, 43.5, float("nan"), float("inf")])
def test_what_is_no_fraction_is_refused(error):
    message = (
        r"expected the error of fog.* at severity 2 to be a fraction in 0\.\.1, got .*; divide percent by 100"
    )
    errors = table(0.5)
    errors["fog"][1] = error
    for metric in (mean_corruption_error, mean_corrupted_error, lambda e: Baseline("mine", 0.1, e)):
        with pytest.raises(ValueError, match=message):
            metric(errors)
    with pytest.raises(ValueError, match="expected clean_error to be a fraction"):
        relative_mean_corruption_error(table(0.5), error)
    with pytest.raises(ValueError, match="expected clean_error of the baseline to be a fraction"):
        Baseline("mine", error, table(0.5))


def test_empty_tables_and_unknown_groups_are_refused():
    with pytest.raises(ValueError, match="at least one corruption, got none"):
        mean_corrupted_error({})
    with pytest.raises(ValueError, match="fog at at least one severity, got 0"):
        mean_corrupted_error({"fog": []}, num_severities=None)
    with pytest.raises(ValueError, match="a group for each corruption, got none for fog"):
        mean_corrupted_error_by_group({"fog": [0.5] * 5}, {})
    with pytest.raises(ValueError, match="a baseline with errors of at least one corruption, got none"):
        Baseline("mine", 0.5, {})


def test_what_is_no_baseline_is_refused():
    with pytest.raises(ValueError, match=r"expected the baseline .*, got 'resnet'"):
        mean_corruption_error(table(0.5), "resnet")
    with pytest.raises(ValueError, match="expected a baseline with clean_error, errors, name, got fog"):
        mean_corruption_error(table(0.5), {"fog": [0.5] * 5})
    with pytest.raises(ValueError, match="expected the baseline to make errors because of the corruption"):
        corruption_error([0.5] * 5, [0.0] * 5)


def test_a_baseline_that_a_corruption_does_not_hurt_is_refused():
    baseline = Baseline("mine", 0.5, {"fog": [0.5] * 5})
    with pytest.raises(ValueError, match="expected the baseline to make errors because of fog"):
        relative_mean_corruption_error({"fog": [0.6] * 5}, 0.5, baseline)


def test_errors_are_counted_by_corruption_and_severity():
    metric = CorruptionErrors(["fog", "snow"])
    labels = torch.arange(10)
    for place, corruption in enumerate(("fog", "snow")):
        for severity in range(1, 6):
            predictions = labels.clone()
            predictions[: place + severity] += 1
            metric.update(predictions, labels, corruption, severity)
    metric.update(torch.tensor([0, 1, 2, 0]), torch.arange(4), "clean", 0)
    assert metric.compute() == {"fog": [0.1, 0.2, 0.3, 0.4, 0.5], "snow": [0.2, 0.3, 0.4, 0.5, 0.6]}
    assert metric.clean_error() == 0.25


def test_the_default_table_is_what_mce_takes():
    metric = CorruptionErrors()
    for corruption, errors in alexnet_baseline().errors.items():
        for severity, error in enumerate(errors, start=1):
            wrong = round(error * 50_000)  # published errors are those on 50,000 images
            metric.update(
                (torch.arange(50_000) < wrong).long(), torch.zeros(50_000).long(), corruption, severity
            )
    assert mean_corruption_error(metric.compute()) == 1


def test_logits_count_by_their_largest():
    metric = CorruptionErrors(["fog"])
    logits = torch.tensor([[0.1, 0.9, 0.0], [2.0, 1.0, -1.0]])
    metric.update(logits, torch.tensor([1, 1]), "clean", 0)
    assert metric.clean_error() == 0.5


def test_an_unfinished_table_is_refused():
    metric = CorruptionErrors(["fog", "snow"])
    answers = torch.tensor([0, 1])
    with pytest.raises(RuntimeError, match=r"expected something counted before CorruptionErrors\.compute"):
        metric.compute()
    for severity in range(1, 6):
        metric.update(answers, answers, "fog", severity)
    metric.update(answers, answers, "snow", 2)
    with pytest.raises(RuntimeError, match=r"got none of snow 1, snow 3, snow 4, snow 5$"):
        metric.compute()
    with pytest.raises(RuntimeError, match="expected clean images, got none"):
        metric.clean_error()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0], [0], "rain", 1), "expected clean or one of fog, got 'rain'"),
        (([0], [0], "fog", 0), "expected a severity from 1 to 5 of fog, got 0"),
        (([0], [0], "fog", 6), "expected a severity from 1 to 5 of fog, got 6"),
        (([0], [0], "clean", 1), "expected severity 0 of clean images, got 1"),
        (([0, 1], [0], "fog", 1), r"expected labels of shape .* got \(1,\) and \(2,\)"),
        (([[0.0, 1.0]], [0, 1], "fog", 1), r"expected labels of shape .* got \(2,\) and \(1, 2\)"),
        (([0.0], [0], "fog", 1), "expected predictions as integers, class indices, got torch.float32"),
        (([0], [True], "fog", 1), "expected labels as integers, class indices, got torch.bool"),
        (([0], [-1], "fog", 1), r"expected labels in 0\.\., got values from -1 to -1"),
        (([[0.0, 1.0]], [2], "fog", 1), r"expected labels in 0\.\.1, got values from 2 to 2"),
        (([[0.0, float("nan")]], [0], "fog", 1), "expected logits that are numbers, got NaN"),
    ],
)
def test_batches_that_do_not_fit_are_refused(arguments, message):
    predictions, labels, corruption, severity = arguments
    metric = CorruptionErrors(["fog"])
    with pytest.raises(ValueError, match=message):
        metric.update(torch.tensor(predictions), torch.tensor(labels), corruption, severity)
    assert not metric.counts.any()


@pytest.mark.parametrize("corruptions", [[], ["fog", "fog"], ["fog", "clean"]])
def test_names_of_corruptions_are_checked(corruptions):
    with pytest.raises(ValueError, match="expected different corruptions, at least one, none called"):
        CorruptionErrors(corruptions)


def test_metrics_do_not_import_corruptions():
    code = "import sys, tapadl.metrics; print([n for n in sys.modules if 'tapadl.corruptions' in n])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert run.stdout.strip() == "[]"
