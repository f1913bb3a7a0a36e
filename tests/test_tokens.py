import pytest
import torch

from tapadl.tokens import PatchGrid


def test_map_is_row_by_row():
    grid = PatchGrid((2, 3))
    patches = torch.arange(6.0).reshape(1, 6, 1)
    assert torch.equal(grid.to_map(patches)[0, 0], torch.tensor([[0.0, 1, 2], [3, 4, 5]]))
    assert torch.equal(grid.from_map(grid.to_map(patches)), patches)


def test_map_of_a_sequence_has_one_side():
    tokens = torch.arange(14.0).reshape(1, 7, 2)
    grid = PatchGrid((6,), num_prefix_tokens=1)
    token_map = grid.to_map(grid.split(tokens)[1])
    assert (grid.ndim, grid.num_patches, grid.num_tokens) == (1, 6, 7)
    assert torch.equal(token_map[0, 1], torch.arange(3.0, 14, 2))
    assert torch.equal(grid.from_map(token_map), tokens[:, 1:])


def test_split_and_join_keep_prefix_tokens():
    grid = PatchGrid((2, 2), num_prefix_tokens=2)
    tokens = torch.randn(3, 6, 5)
    prefix, patches = grid.split(tokens)
    assert prefix.shape == (3, 2, 5)
    assert torch.equal(grid.join(prefix, patches), tokens)


@pytest.mark.parametrize("size", [(0, 3), (3, 0), (-1, 2), (0,)])
def test_grid_without_patches_is_refused(size):
    with pytest.raises(ValueError, match="every side at least 1"):
        PatchGrid(size)


def test_negative_prefix_is_refused():
    with pytest.raises(ValueError, match="num_prefix_tokens of at least 0, got -1"):
        PatchGrid((2, 2), -1)


def test_check_names_expected_and_given():
    with pytest.raises(
        ValueError, match=r"expected 7 tokens for a grid of 2 x 3 .* got tokens of shape \(4, 6, 8\)"
    ):
        PatchGrid((2, 3), 1).check(torch.zeros(4, 6, 8))
    with pytest.raises(ValueError, match=r"\(B, N, C\), got \(6, 8\)"):
        PatchGrid((2, 3)).check(torch.zeros(6, 8))
