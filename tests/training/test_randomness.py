import random

import numpy as np
import pytest
import torch

from tapadl.data.random_state import seed_cpu_generators
from tapadl.training.randomness import reseed


def draws(device="cpu"):
    return random.random(), np.random.rand(), torch.rand(1, device=device).item()  # noqa: NPY002


def test_a_step_draws_the_same_whatever_came_before():
    reseed(5, 100, 1)
    first = draws()
    for step in range(7):
        reseed(5, step, 0)
        draws()
    reseed(5, 100, 1)
    assert draws() == first


def test_seeds_steps_and_ranks_draw_other_numbers_from_all_three_generators():
    drawn = []
    for seed in range(3):
        for step in range(20):
            for rank in range(4):
                reseed(seed, step, rank)
                drawn.append(draws())
    assert all(len(set(numbers)) == len(drawn) for numbers in zip(*drawn, strict=True))
    assert np.abs(np.corrcoef(np.array(drawn[:-1]).T, np.array(drawn[1:]).T) - np.eye(6)).max() < 0.3


def test_a_step_does_not_draw_what_an_item_of_the_same_numbers_does():
    reseed(1, 2, 3)
    first = draws()
    seed_cpu_generators("item", 1, 2, 3)
    assert not set(first) & set(draws())


def test_dropout_follows_from_the_step():
    reseed(0, 7, 0)
    first = torch.nn.functional.dropout(torch.ones(50))
    torch.rand(9)
    reseed(0, 7, 0)
    assert torch.equal(torch.nn.functional.dropout(torch.ones(50)), first)


@pytest.mark.gpu
def test_the_generator_of_a_gpu_is_seeded_too():
    reseed(0, 7, 0)
    first = draws("cuda")
    draws("cuda")
    reseed(0, 7, 0)
    assert draws("cuda") == first
