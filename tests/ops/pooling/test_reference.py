from pathlib import Path

import numpy as np
import pytest
import torch

from tapadl.ops.pooling.reference import pool_branch, token_aware_pooling
from tapadl.tokens import PatchGrid

GOLDEN = Path(__file__).parents[2] / "golden" / "tap_alone.npz"


@pytest.mark.parametrize("dilation", [1, 2, 3, 4])
def test_branch_reproduces_the_golden_pooled_map(dilation):
    values = np.random.default_rng(100).standard_normal((2, 32, 9, 11)).astype(np.float32)
    expected = torch.from_numpy(np.load(GOLDEN)[f"pool_dilation{dilation}_f64"])
    actual = pool_branch(torch.from_numpy(values).double(), dilation)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_dilation_zero_is_the_identity():
    patch_map = torch.randn(2, 3, 4, 5)
    assert torch.equal(pool_branch(patch_map, 0), patch_map)


def test_dilation_beyond_the_map_leaves_a_ninth_of_the_patch():
    patch_map = torch.randn(2, 3, 2, 3, dtype=torch.float64)
    torch.testing.assert_close(pool_branch(patch_map, 5), patch_map / 9)


def test_first_and_second_gradients_agree_with_differences():
    tokens = torch.randn(1, 5, 2, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)

    def pool(tokens, weights):
        return token_aware_pooling(tokens, weights, PatchGrid((2, 2), 1))

    assert torch.autograd.gradcheck(pool, (tokens, weights))
    assert torch.autograd.gradgradcheck(pool, (tokens, weights))
