import contextlib
import random

import numpy as np
import pytest
import torch

from tapadl.data.random_state import kept_cpu_generators, seed_cpu_generators, seeds_of


def draws():
    return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002


def test_draws_follow_from_the_purpose_and_its_numbers():
    seed_cpu_generators("item", 1, 2, 3)
    first = draws()
    draws()
    seed_cpu_generators("item", 1, 2, 3)
    assert draws() == first


@pytest.mark.parametrize("other", [("item", 1, 2, 4), ("item", 12, 3), ("step", 1, 2, 3)])
def test_another_purpose_moves_all_three_generators(other):
    seed_cpu_generators("item", 1, 2, 3)
    first = draws()
    seed_cpu_generators(*other)
    assert all(one != two for one, two in zip(first, draws(), strict=True))


def test_seeds_of_the_three_generators_are_no_copies_of_one_another():
    seeds = np.array([seeds_of("item", 0, 0, index) for index in range(2000)], dtype=np.float64)
    assert np.abs(np.corrcoef(seeds.T) - np.eye(3)).max() < 0.1
    assert np.allclose(seeds.mean(axis=0) / [2**64, 2**32, 2**63], 0.5, atol=0.03)


def test_generators_go_on_as_if_nothing_had_been_drawn():
    seed_cpu_generators("before")
    np.random.standard_normal()  # noqa: NPY002 - leaves a second number in store
    expected_state = np.random.get_state()  # noqa: NPY002
    with kept_cpu_generators():
        expected = draws()
    with kept_cpu_generators():
        seed_cpu_generators("inside")
        np.random.standard_normal(3)  # noqa: NPY002
        draws()
    assert np.random.get_state()[3:] == expected_state[3:]  # noqa: NPY002
    assert draws() == expected


def test_generators_are_left_alone_by_an_error_too():
    seed_cpu_generators("before")
    with kept_cpu_generators():
        expected = draws()
    with contextlib.suppress(OSError), kept_cpu_generators():
        seed_cpu_generators("inside")
        raise OSError("broken")
    assert draws() == expected
