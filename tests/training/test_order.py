import torch

from tapadl.training.order import epoch_order, uniform


def test_order_is_a_permutation_that_follows_from_seed_and_epoch():
    order = epoch_order(100, seed=1, epoch=2)
    assert sorted(order.tolist()) == list(range(100))
    assert torch.equal(order, epoch_order(100, seed=1, epoch=2))
    assert not torch.equal(order, epoch_order(100, seed=1, epoch=3))
    assert not torch.equal(order, epoch_order(100, seed=2, epoch=2))


def test_global_random_state_is_neither_used_nor_changed():
    state = torch.get_rng_state()
    before = epoch_order(10, seed=0, epoch=0), uniform(torch.arange(4), seed=0, epoch=0, draws=2)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    after = epoch_order(10, seed=0, epoch=0), uniform(torch.arange(4), seed=0, epoch=0, draws=2)
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_draws_of_a_sample_do_not_depend_on_its_batch():
    together = uniform(torch.arange(1000), seed=5, epoch=1, draws=3)
    alone = uniform(torch.tensor([900, 7]), seed=5, epoch=1, draws=3)
    assert torch.equal(together[[900, 7]], alone)


def test_draws_are_uniform_and_uncorrelated():
    draws = uniform(torch.arange(20_000), seed=0, epoch=0, draws=3)
    assert draws.min() >= 0
    assert draws.max() < 1
    histogram = torch.stack([column.histc(10, 0, 1) for column in draws.T])
    assert (histogram - 2000).abs().max() < 250
    correlation = torch.corrcoef(torch.cat((draws[:-1].T, draws[1:].T)))
    assert (correlation - torch.eye(6)).abs().max() < 0.04


def test_seeds_and_epochs_give_other_draws():
    first = uniform(torch.arange(8), seed=0, epoch=0, draws=1)
    assert not torch.equal(first, uniform(torch.arange(8), seed=1, epoch=0, draws=1))
    assert not torch.equal(first, uniform(torch.arange(8), seed=0, epoch=1, draws=1))
