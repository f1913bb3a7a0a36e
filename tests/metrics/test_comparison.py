import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tapadl.metrics import bootstrap_interval, paired_test


def binomial_p_value(wins, losses):
    """McNemar's exact test from the binomial coefficients: twice the smaller tail, at most 1."""
    number = wins + losses
    tail = sum(math.comb(number, k) for k in range(min(wins, losses) + 1)) / 2**number
    return min(1.0, 2 * tail)


@given(wins=st.integers(0, 40), losses=st.integers(0, 40), ties=st.integers(0, 10))
def test_right_and_wrong_answers_give_the_exact_test_of_mcnemar(wins, losses, ties):
    first = np.array([True] * wins + [False] * losses + [True] * ties + [True])
    second = np.array([False] * wins + [True] * losses + [True] * ties + [True])
    assert paired_test(first, second) == pytest.approx(binomial_p_value(wins, losses))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(-50, 50), st.integers(-50, 50)), min_size=1, max_size=8))
def test_over_seeds_it_tries_every_sign(pairs):
    first, second = zip(*pairs, strict=True)
    differences = [a - b for a, b in pairs]
    sums = [
        sum(s * d for s, d in zip(signs, differences, strict=True))
        for signs in itertools.product((1, -1), repeat=len(pairs))
    ]
    as_large = sum(abs(total) >= abs(sum(differences)) for total in sums) / len(sums)
    assert paired_test(first, second) == pytest.approx(as_large)


def test_few_seeds_have_a_smallest_p_value():
    for number in (1, 2, 3, 5):
        improved = np.linspace(0.1, 0.2, number)
        assert paired_test(improved, improved + 0.3) == pytest.approx(2 / 2**number)


def test_many_values_are_tested_with_random_signs_the_same_each_time():
    generator = np.random.default_rng(0)
    differences = generator.normal(0.1, 1, 300)
    p_value = paired_test(differences, np.zeros(300))
    z = differences.mean() / (np.sqrt((differences**2).mean()) / np.sqrt(300))
    assert p_value == pytest.approx(math.erfc(abs(z) / math.sqrt(2)), abs=0.02)
    assert p_value == paired_test(differences, np.zeros(300))
    assert p_value != paired_test(differences, np.zeros(300), seed=1)


@pytest.mark.parametrize("shift", [0.0, 0.15, 0.4])
def test_random_signs_come_near_the_share_of_all_signs(shift):
    differences = np.random.default_rng(5).normal(shift, 1, 16).round(1)
    signs = np.array(list(itertools.product((-1, 1), repeat=len(differences))))
    exact = np.mean(np.abs(signs @ differences) >= abs(differences.sum()) - 1e-9)

    random = paired_test(differences, np.zeros(16))

    # 9,999 draws: four standard errors
    assert abs(random - exact) < 4 * math.sqrt(exact * (1 - exact) / 9999) + 1e-4


def test_equal_models_do_not_differ():
    assert paired_test([0.1, 0.2], [0.1, 0.2]) == 1
    assert paired_test([True, False], [True, False]) == 1


def test_tensors_arrays_and_lists_are_the_same():
    first, second = [0.3, 0.1, 0.4], [0.2, 0.3, 0.2]
    expected = paired_test(first, second)
    assert paired_test(torch.tensor(first, dtype=torch.double), np.array(second)) == expected
    assert bootstrap_interval(torch.tensor(first, dtype=torch.double)) == bootstrap_interval(first)


def test_the_interval_of_a_share_is_that_of_the_binomial():
    values = np.arange(400) < 300
    low, high = bootstrap_interval(values, num_resamples=20_000)
    deviation = math.sqrt(0.75 * 0.25 / 400)
    assert low == pytest.approx(0.75 - 1.96 * deviation, abs=0.1 * deviation)
    assert high == pytest.approx(0.75 + 1.96 * deviation, abs=0.1 * deviation)
    narrow = bootstrap_interval(values, confidence_level=0.5, num_resamples=20_000)
    assert low < narrow[0] < 0.75 < narrow[1] < high


def test_two_values_give_the_quantiles_of_their_four_resamples():
    assert bootstrap_interval([0.0, 1.0]) == (0, 1)
    assert bootstrap_interval([0.0, 1.0], confidence_level=0.4) == (0.5, 0.5)
    assert bootstrap_interval([0.3, 0.3, 0.3]) == pytest.approx((0.3, 0.3))


def test_pairing_narrows_the_interval_of_a_difference():
    generator = np.random.default_rng(0)
    hardness = generator.normal(0, 1, 500)
    first, second = hardness + generator.normal(0.1, 0.1, 500), hardness + generator.normal(0, 0.1, 500)
    low, high = bootstrap_interval(first - second)
    assert 0 < low < 0.1 < high
    assert bootstrap_interval(first)[0] < bootstrap_interval(second)[1]


def test_draws_come_from_the_seed():
    values = np.random.default_rng(0).random(50)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_interval([0.5]), "expected at least two values, got 1"),
        (
            lambda: bootstrap_interval([0.5, math.nan]),
            r"expected values as finite numbers of shape \(N,\), got",
        ),
        (lambda: bootstrap_interval([[0.5, 0.1]]), r"of shape \(N,\), got shape \(1, 2\)"),
        (
            lambda: bootstrap_interval([0.5, 0.1], confidence_level=95),
            "confidence_level between 0 and 1, got 95",
        ),
        (
            lambda: paired_test([0.5, 0.2], [0.5]),
            "values of two models on the same images or seeds, got 2 and 1",
        ),
        (lambda: paired_test([], []), "got 0 and 0"),
        (lambda: paired_test([0.1], [math.inf]), "expected second as finite numbers"),
    ],
)
def test_what_cannot_be_compared_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
