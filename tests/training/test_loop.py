import dataclasses

import pytest
import torch
from torch import nn

from tapadl.training.config import TrainingConfig
from tapadl.training.loop import fit

CONFIG = TrainingConfig(epochs=3, batch_size=4, learning_rate=0.05, seed=1)


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.Linear(8, 1))


def train(model, config, loss=None, **options):
    data = torch.randn(18, 3, generator=torch.Generator().manual_seed(2))
    shown = []

    def load(indices, epoch):
        shown.append((epoch, indices.tolist()))
        return data[indices]

    loss = loss or (lambda batch: (model(batch) - batch.sum(1, keepdim=True)).square().mean())
    return fit(model, config, num_samples=18, load=load, loss=loss, **options), shown


def test_same_seed_twice_gives_bit_identical_weights_whatever_the_global_state():
    first, second = make_model(), make_model()
    train(first, CONFIG)
    torch.manual_seed(77)
    train(second, CONFIG)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_another_seed_gives_other_weights():
    first, second = make_model(), make_model()
    train(first, CONFIG)
    train(second, dataclasses.replace(CONFIG, seed=2))
    assert not torch.equal(first[0].weight, second[0].weight)


def test_every_epoch_shows_full_batches_of_different_samples_in_another_order():
    _, shown = train(make_model(), CONFIG)
    epochs = [[index for epoch, batch in shown if epoch == number for index in batch] for number in range(3)]
    assert [len(epoch) for epoch in epochs] == [16, 16, 16]
    assert all(len(set(epoch)) == 16 for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_steps_may_end_in_the_middle_of_an_epoch():
    result, shown = train(make_model(), dataclasses.replace(CONFIG, steps=6))
    assert result.steps == len(shown) == 6
    assert result.epochs == 1.5


def test_loss_falls_and_the_curve_says_so():
    result, _ = train(make_model(), dataclasses.replace(CONFIG, epochs=40))
    assert result.curve[-1].loss < 0.5 * result.curve[0].loss
    assert len(result.curve) == 50
    assert result.curve[-1].step == result.steps == 160
    assert result.seconds > 0
    assert 0 < result.median_step_seconds < result.seconds


def test_every_step_is_reported():
    steps = []
    train(make_model(), CONFIG, on_step=steps.append)
    assert [step.step for step in steps] == list(range(1, 13))
    assert {step.total_steps for step in steps} == {12}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_loss_that_is_not_finite_stops_with_the_step(bad):
    model = make_model()
    calls = []

    def loss(batch):
        calls.append(1)
        return model(batch).mean() * (bad if len(calls) == 7 else 1.0)

    with pytest.raises(RuntimeError, match=r"expected a finite loss, got \S+ at step 7 of 12 \(epoch 2\)"):
        train(model, CONFIG, loss=loss)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_last_step_that_spoils_the_weights_stops_too():
    model = make_model()

    def spoil(step):
        if step.step == step.total_steps:
            with torch.no_grad():
                model[0].weight[0, 0] = float("nan")

    with pytest.raises(RuntimeError, match=r"expected finite weights, got .* at step 12 of 12 \(epoch 3\)"):
        train(model, CONFIG, on_step=spoil)
