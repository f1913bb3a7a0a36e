"""Known answers by hand, and the published loop over frames written down a second time."""

import itertools
import math

import pytest
import torch

from tapadl.metrics import (
    FlipProbability,
    PerturbationBaseline,
    Top5Distance,
    class_ranks,
    flip_probability,
    mean_flip_rate,
    mean_top5_distance,
    top5_distance,
)

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(5, 11, 8, generator=GENERATOR).cumsum(dim=1)  # neighbouring frames resemble one another
PREDICTIONS = LOGITS.argmax(dim=-1)
RANKS = class_ranks(LOGITS)


def interleaved_mean(sequences, distance, difficulty, noise):
    """Passes over every `difficulty`-th frame; noise keeps its first frame and takes one pass."""
    step = 1 if noise else difficulty
    means = []
    for frames in sequences:
        distances = []
        for start in range(step):
            earlier, *rest = frames[start::step]
            for frame in rest:
                distances.append(distance(earlier, frame))
                earlier = earlier if noise else frame
        means.append(sum(distances) / len(distances))
    return sum(means) / len(means)


def list_distance(first, second):
    """Through the lists of classes themselves, most likely first."""
    order, other = sorted(range(len(first)), key=first.__getitem__), list(second)
    return sum(abs(place - min(other[order[place]], 5)) for place in range(5))


@pytest.mark.parametrize("noise", [False, True])
@pytest.mark.parametrize("difficulty", [1, 2, 3, 10])
def test_both_equal_the_interleaved_passes_over_frames(difficulty, noise):
    flips = interleaved_mean(PREDICTIONS.tolist(), lambda a, b: a != b, difficulty, noise)
    moved = interleaved_mean(RANKS.tolist(), list_distance, difficulty, noise)
    assert 0.1 < flips < 0.99
    assert flip_probability(PREDICTIONS, difficulty, noise) == pytest.approx(flips, abs=1e-12)
    assert top5_distance(RANKS, difficulty, noise) == pytest.approx(moved, abs=1e-12)


def test_flips_by_hand():
    frames = torch.tensor([[1, 1, 2, 1, 1], [3, 3, 3, 3, 4]])
    assert flip_probability(frames) == (2 / 4 + 1 / 4) / 2
    assert flip_probability(frames, difficulty=2) == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert flip_probability(frames, noise=True) == (1 / 4 + 1 / 4) / 2
    assert flip_probability(frames, difficulty=4) == 0.5


def test_noise_ignores_the_difficulty():
    frames = PREDICTIONS[:, :3]
    assert flip_probability(frames, difficulty=7, noise=True) == flip_probability(frames, noise=True)


@pytest.mark.parametrize(
    ("second", "distance"),
    [
        ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 0),
        ([0, 1, 2, 3, 4, 9, 8, 7, 6, 5], 0),  # below the top five nothing counts
        ([1, 0, 2, 3, 4, 5, 6, 7, 8, 9], 2),
        ([5, 1, 2, 3, 4, 0, 6, 7, 8, 9], 5),  # the first class left, the list is the same otherwise
        ([9, 1, 2, 3, 4, 0, 6, 7, 8, 5], 5),  # how far it left does not matter
        ([5, 6, 7, 8, 9, 0, 1, 2, 3, 4], 15),
        ([5, 6, 7, 8, 0, 4, 1, 2, 3, 9], 18),
    ],
)
def test_distance_of_top_five_lists_by_hand(second, distance):
    assert top5_distance(torch.tensor([[list(range(10)), second]])) == distance


def test_no_two_lists_are_further_apart_than_eighteen():
    seconds = itertools.permutations([0, 1, 2, 3, 4, 5, 5, 5, 5, 5], 5)
    assert max(sum(abs(k - s) for k, s in enumerate(ranks)) for ranks in seconds) == 18


def test_ranks_count_from_zero_and_keep_the_order_of_equal_logits():
    assert class_ranks(torch.tensor([0.5, 0.9, 0.5, -math.inf])).tolist() == [1, 0, 2, 3]
    assert class_ranks(torch.zeros(1000)).tolist() == list(range(1000))
    assert torch.equal(RANKS.argmin(dim=-1), PREDICTIONS)
    with pytest.raises(ValueError, match="expected logits that are numbers, got NaN"):
        class_ranks(torch.tensor([0.5, math.nan]))


def test_small_integers_do_not_overflow():
    repeated = RANKS.repeat(200, 1, 1)
    assert top5_distance(repeated.to(torch.uint8)) == top5_distance(RANKS)
    assert flip_probability(PREDICTIONS.repeat(200, 1).to(torch.int8)) == flip_probability(PREDICTIONS)


def test_rates_are_means_of_ratios_to_the_baseline():
    baseline = PerturbationBaseline("mine", {"tilt": 0.2, "snow": 0.4}, {"tilt": 2.0, "snow": 8.0})
    assert mean_flip_rate(baseline.flip_probabilities, baseline) == 1
    assert mean_top5_distance(baseline.top5_distances, baseline) == 1
    assert mean_flip_rate({"snow": 0.1, "tilt": 0.1, "shear": 0.9}, baseline) == (0.25 + 0.5) / 2
    assert mean_top5_distance({"snow": 18, "tilt": 0}, baseline) == 18 / 8 / 2


@pytest.mark.parametrize(
    ("rate", "what"), [(mean_flip_rate, "flip probability"), (mean_top5_distance, "top-5 distance")]
)
def test_tables_that_do_not_fit_the_baseline_are_refused(rate, what):
    def baseline(value):
        return PerturbationBaseline("mine", {"tilt": value, "snow": 0.5}, {"tilt": value, "snow": 0.5})

    with pytest.raises(
        ValueError, match=f"expected the {what} of all 2 perturbations of the .* none for snow$"
    ):
        rate({"tilt": 0.1}, baseline(0.1))
    with pytest.raises(ValueError, match=f"expected a baseline with the {what} of at least one"):
        rate({"tilt": 0.1}, PerturbationBaseline("mine", {}, {}))
    for value in (0.0, -0.1, 18.5, math.nan):
        with pytest.raises(ValueError, match=f"expected the baseline's {what} of tilt above 0, at most"):
            rate({"tilt": 0.1, "snow": 0.1}, baseline(value))
    for value in (-0.1, 18.5, math.nan):
        with pytest.raises(ValueError, match=rf"expected the {what} of tilt in 0\.\.\d+, got"):
            rate({"tilt": value, "snow": 0.1}, baseline(0.1))
    with pytest.raises(ValueError, match=r"in 0\.\.1, got 23"):
        mean_flip_rate({"tilt": 23, "snow": 0.1}, baseline(0.1))


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        (torch.zeros(2, 3, 4), r"expected predictions of shape \(sequences, frames\), got \(2, 3, 4\)"),
        (torch.zeros(2, 3), "expected predictions as integers, class indices, got torch.float32"),
        (torch.tensor([[0, -1]]), r"expected predictions in 0\.\., got values from -1 to 0"),
        (torch.zeros(2, 1).long(), "expected sequences of more than 1 frames, got 1"),
    ],
)
def test_what_are_no_sequences_of_classes_is_refused(predictions, message):
    with pytest.raises(ValueError, match=message):
        flip_probability(predictions)


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        (RANKS[0], r"expected ranks of shape \(sequences, frames, classes\).*, got \(11, 8\)"),
        (RANKS[..., :4], r"at least 5 classes, got \(5, 11, 4\)"),
        (LOGITS, "expected ranks as integers, class indices, got torch.float32"),
        (RANKS + 1, r"expected ranks in 0\.\.7, got values from 1 to 8"),
        (RANKS.clamp(max=2), "expected ranks that count the classes of a frame from 0, each once"),
        (RANKS[:, :1], "expected sequences of more than 1 frames, got 1"),
    ],
)
def test_what_are_no_ranks_is_refused(ranks, message):
    with pytest.raises(ValueError, match=message):
        top5_distance(ranks)


@pytest.mark.parametrize("metric", [FlipProbability, Top5Distance])
def test_difficulty_and_lengths_are_checked(metric):
    with pytest.raises(ValueError, match="expected a difficulty of at least 1, got 0"):
        metric(difficulty=0)
    frames = PREDICTIONS if metric is FlipProbability else RANKS
    with pytest.raises(ValueError, match="expected sequences of more than 11 frames, got 11"):
        metric(difficulty=11).update(frames)
    mixed = metric()
    mixed.update(frames)
    before = mixed.counts
    with pytest.raises(
        ValueError, match="expected sequences of one length in all batches, got different ones"
    ):
        mixed.update(frames[:, :-1])
    assert torch.equal(mixed.counts, before)
    other = metric()
    other.update(frames[:, :-1])
    mixed.add_counts(other.counts)
    with pytest.raises(RuntimeError, match="expected sequences of one length in all processes"):
        mixed.compute()
