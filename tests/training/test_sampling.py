from itertools import chain, islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tapadl.training.order import epoch_order
from tapadl.training.sampling import EpochBatches


@st.composite
def cuts(draw):
    """A number of images, a global batch, and two ways to cut it."""
    ways = [(draw(st.integers(1, 4)), draw(st.integers(1, 3))) for _ in range(2)]
    pieces = torch.tensor([world * accumulation for world, accumulation in ways]).prod().item()
    batch_size = pieces * draw(st.integers(1, 3))
    num_samples = draw(st.integers(batch_size, 5 * batch_size + 3))
    return num_samples, batch_size, ways, draw(st.integers(0, 2**40))


def steps(batches, count, start_step=0):
    return list(islice(batches.batches(start_step), count))


def global_batches(num_samples, batch_size, seed, world_size, accumulation, count):
    """Of each step, the places of all ranks, in the order of ranks and micro-batches."""
    ranks = [
        steps(EpochBatches(num_samples, batch_size, seed, rank, world_size, accumulation), count)
        for rank in range(world_size)
    ]
    return [[place for rank in ranks for micro in rank[step] for place in micro] for step in range(count)]


@settings(deadline=None, max_examples=60)
@given(cuts())
def test_the_global_batch_does_not_depend_on_processes_and_accumulation(cut):
    num_samples, batch_size, ways, seed = cut
    first, second = (global_batches(num_samples, batch_size, seed, *way, count=7) for way in ways)
    assert first == second


@settings(deadline=None, max_examples=60)
@given(cuts())
def test_an_epoch_shows_every_image_at_most_once_in_the_order_of_the_epoch(cut):
    num_samples, batch_size, ways, seed = cut
    per_epoch = num_samples // batch_size
    shown = global_batches(num_samples, batch_size, seed, *ways[0], count=2 * per_epoch)
    for epoch in (0, 1):
        places = list(chain(*shown[epoch * per_epoch : (epoch + 1) * per_epoch]))
        assert {number for number, _ in places} == {epoch}
        indices = [index for _, index in places]
        assert len(set(indices)) == len(indices) == per_epoch * batch_size
        assert indices == epoch_order(num_samples, seed=seed, epoch=epoch)[: len(indices)].tolist()


@settings(deadline=None, max_examples=60)
@given(cuts(), st.integers(0, 20))
def test_to_start_at_a_step_equals_to_skip_those_before(cut, start_step):
    num_samples, batch_size, ((world_size, accumulation), _), seed = cut
    batches = EpochBatches(num_samples, batch_size, seed, world_size - 1, world_size, accumulation)
    assert steps(batches, 3, start_step) == steps(batches, start_step + 3)[start_step:]


@settings(deadline=None, max_examples=30)
@given(cuts(), st.integers(0, 9), st.integers(0, 9))
def test_micro_batches_are_those_of_the_steps_one_after_the_other(cut, start, length):
    num_samples, batch_size, (_, (world_size, accumulation)), seed = cut
    batches = EpochBatches(num_samples, batch_size, seed, 0, world_size, accumulation)
    micro_batches = list(batches.micro_batches(start, start + length))
    assert micro_batches == list(chain(*steps(batches, length, start)))
    assert len(micro_batches) == length * accumulation
    assert {len(micro) for micro in micro_batches} <= {batches.micro_batch_size}


def test_seeds_and_epochs_have_orders_of_their_own():
    def first(seed, step):
        return [index for _, index in steps(EpochBatches(64, 64, seed), 1, step)[0][0]]

    assert first(0, 0) != first(1, 0)
    assert first(0, 0) != first(0, 1)
    assert sorted(first(0, 0)) == sorted(first(0, 1)) == list(range(64))


@pytest.mark.parametrize("step", [3, 4, 1001])
def test_a_million_images_can_be_entered_at_any_step(step):
    batches = EpochBatches(1_000_000, 250_000, 0, rank=3, world_size=1000, accumulation=50)
    micro_batches = next(batches.batches(step))
    assert len(micro_batches) == 50
    order = epoch_order(1_000_000, seed=0, epoch=step // 4)
    start = (step % 4) * 250_000 + 3 * 250
    assert micro_batches[0] == [(step // 4, index) for index in order[start : start + 5].tolist()]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((100, 10, 0, 0, 4, 1), r"multiple of processes x accumulation \(4 x 1\), got 10"),
        ((100, 12, 0, 0, 2, 4), r"multiple of processes x accumulation \(2 x 4\), got 12"),
        ((100, 0, 0), r"\(1 x 1\), got 0"),
        ((100, 8, 0, 0, 1, 0), r"\(1 x 0\), got 8"),
        ((100, 8, 0, 2, 2), "expected a rank from 0 to 1, got 2"),
        ((7, 8, 0), "expected at least the images of one batch, 8, got 7; take a smaller batch_size"),
    ],
)
def test_what_cannot_be_cut_is_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        EpochBatches(*arguments)


def test_a_step_before_the_first_is_refused():
    with pytest.raises(ValueError, match="expected start_step from 0, got -1"):
        next(EpochBatches(8, 8, 0).batches(-1))
