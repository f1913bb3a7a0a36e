import math

import pytest
import torch

from tapadl.diagnostics import attention_stability


def test_identical_maps_did_not_move():
    attention = torch.rand(2, 5, 9, dtype=torch.float64).softmax(dim=-1)

    stability = attention_stability(attention, attention.clone())

    assert stability.cosine == pytest.approx(1)
    assert stability.divergence == pytest.approx(0, abs=1e-12)


def test_disjoint_maps_moved_altogether():
    clean, corrupted = torch.zeros(2, 4, 6), torch.zeros(2, 4, 6)
    clean[..., :3] = corrupted[..., 3:] = 1 / 3

    stability = attention_stability(clean, corrupted)

    assert stability.cosine == 0
    assert stability.divergence == pytest.approx(math.log(2), rel=1e-6)


def test_divergence_is_the_mean_of_both_relative_entropies_to_the_middle():
    clean, corrupted = torch.rand(2, 3, 4, 7, dtype=torch.float64).softmax(dim=-1)
    middle = (clean + corrupted) / 2
    expected = [(rows * (rows / middle).log()).sum(dim=-1).mean() for rows in (clean, corrupted)]

    found = attention_stability(clean, corrupted)

    assert found.divergence == pytest.approx(float(sum(expected) / 2), rel=1e-12)
    assert attention_stability(corrupted, clean) == found


def test_maps_of_two_shapes_are_refused():
    with pytest.raises(ValueError, match=r"one shape, got \(1, 2, 2\) and \(1, 2, 3\)"):
        attention_stability(torch.ones(1, 2, 2), torch.ones(1, 2, 3))
