from dataclasses import astuple

import numpy as np
import pytest
import torch

from tapadl.diagnostics import attention_rollout, compare_attention, head_mean_attention, measure_focus
from tapadl.ops.diversification import tiles


@pytest.fixture
def small_blocks(monkeypatch):
    """Five rows of one image at a time, where these models otherwise fit into one block."""
    monkeypatch.setattr(tiles, "CPU_TILE_BYTES", 1)
    monkeypatch.setattr(tiles, "MIN_ROWS", 5)


@pytest.mark.parametrize("name", ["vit with registers", "swin", "rvt"])
def test_blocks_of_a_few_rows_give_the_same_maps_and_numbers(make_model, recorded_maps, small_blocks, name):
    watched = make_model(name)
    expected = recorded_maps(watched.model, watched.images)
    flipped = watched.images.flip(0)

    for found, recorded in zip(head_mean_attention(watched.model, watched.images), expected, strict=True):
        np.testing.assert_allclose(found, recorded.mean(axis=1), rtol=1e-9)
    in_blocks = (
        measure_focus(watched.model, watched.images).layers,
        compare_attention(watched.model, watched.images, flipped),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "CPU_TILE_BYTES", 1 << 20)
        at_once = (
            measure_focus(watched.model, watched.images).layers,
            compare_attention(watched.model, watched.images, flipped),
        )
    for left, right in zip(in_blocks[0], at_once[0], strict=True):
        assert astuple(left.mean) == pytest.approx(astuple(right.mean), rel=1e-9, abs=1e-12)
        assert astuple(left.heads[1]) == pytest.approx(astuple(right.heads[1]), rel=1e-9, abs=1e-12)
    for left, right in zip(in_blocks[1], at_once[1], strict=True):
        assert astuple(left) == pytest.approx(astuple(right), rel=1e-9, abs=1e-12)


def test_rollout_in_blocks_of_a_few_rows_is_the_same(make_model, small_blocks):
    watched = make_model("vit with registers")
    in_blocks = attention_rollout(watched.model, watched.images)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "CPU_TILE_BYTES", 1 << 20)
        at_once = attention_rollout(watched.model, watched.images)

    torch.testing.assert_close(in_blocks.patches, at_once.patches, rtol=1e-9, atol=1e-12)


def test_no_block_holds_a_whole_map(make_model, small_blocks, monkeypatch):
    from tapadl.diagnostics.rows import Rows

    sizes, blocks = [], Rows.blocks

    def watched_blocks(rows):
        for samples, at, attention in blocks(rows):
            sizes.append(attention.shape)
            yield samples, at, attention

    monkeypatch.setattr(Rows, "blocks", watched_blocks)
    watched = make_model("vit with registers")

    measure_focus(watched.model, watched.images)

    assert {shape[0] for shape in sizes} == {1}
    assert {shape[2] for shape in sizes} == {5, 2}  # of 27
