import numpy as np
import pytest
import torch

from tapadl.corruptions import CORRUPTIONS
from tapadl.evaluation.plan import Cell
from tapadl.evaluation.record import Record
from tapadl.evaluation.scoring import restrict, score_images, score_sequences
from tapadl.evaluation.summary import calibration_error, image_shares
from tapadl.metrics import (
    alexnet_baseline,
    expected_calibration_error,
    flip_probability,
    mean_corrupted_error,
    mean_corruption_error,
    relative_mean_corruption_error,
    top5_distance,
)

COUNT = 40


def records(conditions, clean=True, seed=0):
    random = np.random.default_rng(seed)
    cells = [Cell("clean")] * clean + [
        Cell(name, severity) for name in conditions for severity in range(1, 6)
    ]
    return [Record(cell, {"correct": random.random(COUNT) < 0.8 - 0.1 * cell.severity}, {}) for cell in cells]


def errors(found):
    table = {}
    for record in found:
        if record.cell.severity:
            table.setdefault(record.cell.condition, []).append(1 - record.items["correct"].mean())
    return table


def test_means_of_the_shares_are_the_metrics():
    found = records(CORRUPTIONS)
    shares = {name: float(values.mean()) for name, values in image_shares(found, alexnet_baseline()).items()}
    clean = 1 - found[0].items["correct"].mean()
    assert shares["error"] == pytest.approx(clean)
    assert shares["mce"] == pytest.approx(mean_corruption_error(errors(found)))
    assert shares["relative_mce"] == pytest.approx(relative_mean_corruption_error(errors(found), clean))
    table = {name: list(values) for name, values in errors(found).items()}
    assert shares["mean_corrupted_error"] == pytest.approx(mean_corrupted_error(table))
    noises = [np.mean(values) for name, values in table.items() if CORRUPTIONS[name].group == "noise"]
    assert shares["mean_corrupted_error_noise"] == pytest.approx(np.mean(noises))


def test_no_mce_without_all_fifteen_corruptions():
    in_mce = [name for name, corruption in CORRUPTIONS.items() if corruption.in_mce]
    assert "mce" in image_shares(records(in_mce), alexnet_baseline())
    assert "mce" not in image_shares(records(in_mce[1:]), alexnet_baseline())
    without_one = [record for record in records(in_mce) if record.cell != Cell("fog", 4)]
    assert "mce" not in image_shares(without_one, alexnet_baseline())
    assert "mce" not in image_shares(records(in_mce))


def test_relative_mce_takes_the_clean_error_of_another_benchmark():
    found = records(CORRUPTIONS, clean=False)
    assert "relative_mce" not in image_shares(found, alexnet_baseline())
    shares = image_shares(found, alexnet_baseline(), clean_error=0.25)
    assert shares["relative_mce"].mean() == pytest.approx(relative_mean_corruption_error(errors(found), 0.25))


def test_spread_of_the_shares_is_that_of_repeated_draws():
    # the standard error of a mean over images whose cells depend on one another, against drawing images anew
    random = np.random.default_rng(0)
    found = records(["fog", "snow"], seed=1)
    hard = random.random(COUNT)  # an image that is hard is hard in every cell
    found = [Record(record.cell, {"correct": random.random(COUNT) < hard}, {}) for record in found]
    shares = image_shares(found)["mean_corrupted_error"]
    stated = shares.std(ddof=1) / COUNT**0.5
    draws = [shares[random.integers(0, COUNT, COUNT)].mean() for _ in range(4000)]
    assert np.std(draws) == pytest.approx(stated, rel=0.1)


def test_sequences_score_as_the_metrics_say():
    torch.manual_seed(0)
    logits = torch.randn(3, 31, 10).cumsum(dim=1)
    for name in ("tilt", "gaussian_noise", "shot_noise_2"):
        record = score_sequences(Cell(name), logits)
        noise = "noise" in name
        ranks = logits.argsort(dim=-1, descending=True).argsort(dim=-1)
        shares = image_shares([record])
        assert shares["flip_probability"].mean() == pytest.approx(
            flip_probability(logits.argmax(dim=-1), noise=noise)
        )
        assert shares["t5d"].mean() == pytest.approx(top5_distance(ranks, noise=noise))


def test_long_films_are_counted_in_full():
    logits = torch.eye(6)[torch.arange(601) % 2][None].repeat(1, 1, 1)
    (flips,), (pairs,) = (score_sequences(Cell("tilt"), logits).items[name] for name in ("flips", "pairs"))
    assert (flips, pairs) == (600, 600)


def test_images_score_correct_and_calibrated():
    torch.manual_seed(0)
    logits, labels = torch.randn(50, 7), torch.randint(7, (50,))
    whole = score_images(Cell("clean"), logits, labels)
    assert whole.items["correct"].tolist() == (logits.argmax(dim=1) == labels).tolist()
    halves = [score_images(Cell("clean"), logits[part], labels[part]) for part in (slice(13), slice(13, 50))]
    for record in (whole, Record.join(halves)):
        assert calibration_error(record) == pytest.approx(
            expected_calibration_error(logits.softmax(dim=1), labels)
        )


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_logits_that_are_no_numbers_are_refused_with_the_cell(value):
    with pytest.raises(RuntimeError, match="fog/3, got NaN or infinity; evaluate with --precision float32"):
        score_images(Cell("fog", 3), torch.tensor([[0.0, value]]), torch.tensor([0]))


def test_logits_are_restricted_to_the_outputs_of_the_classes():
    logits = torch.arange(2000.0).reshape(2, 1000)
    assert restrict(logits, (3, 1), 2).tolist() == [[3.0, 1.0], [1003.0, 1001.0]]
    assert restrict(logits, None, 1000) is logits
    assert restrict(logits[:, :2], (3, 1), 2).tolist() == [[0.0, 1.0], [1000.0, 1001.0]]


@pytest.mark.parametrize(
    ("width", "outputs", "classes", "message"),
    [
        (4, None, 3, "expected a model with 3 outputs"),
        # of 1,001 outputs, the first of which is the background, and of ImageNet-21k
        (1001, (0, 4), 2, "the 1000 outputs of ImageNet-1k, or 2 for the classes"),
        (21843, (0, 4), 2, "got 21843"),
        (4, (0, 4), 2, "got 4"),
    ],
)
def test_model_with_other_outputs_is_refused(width, outputs, classes, message):
    with pytest.raises(ValueError, match=message):
        restrict(torch.zeros(1, width), outputs, classes)
