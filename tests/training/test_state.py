import copy
import json
import math

import pytest
import torch
from timm.optim import create_optimizer_v2
from torch import nn

from tapadl.training.objective import SupervisedObjective
from tapadl.training.state import TrainingState, flatten, unflatten
from tapadl.training.weight_average import WeightAverage


class Adapting(SupervisedObjective):
    number = 1.0

    def state(self):
        return {"number": self.number}

    def load_state(self, state):
        self.number = state["number"]


def make_state(optimizer="adamw", average=True, precision="float16"):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    return TrainingState(
        model,
        create_optimizer_v2(model, opt=optimizer, lr=1e-3, weight_decay=0.05),
        torch.amp.GradScaler("cpu", enabled=precision == "float16", growth_interval=2, init_scale=8.0),
        Adapting(nn.functional.cross_entropy),
        WeightAverage(model, 0.9) if average else None,
    )


def advance(state, steps):
    for _ in range(steps):
        torch.manual_seed(state.step)
        state.optimizer.zero_grad()
        loss = state.model(torch.randn(4, 3, 4, 4)).square().mean()
        state.scaler.scale(loss).backward()
        state.scaler.step(state.optimizer)
        state.scaler.update()
        if state.average is not None:
            state.average.update()
        state.objective.number *= 1.1
        state.step += 1


def through_json(state):
    """As a checkpoint keeps it: tensors apart, the rest as text."""
    tensors, plain = flatten(state.tree())
    return unflatten(
        json.loads(json.dumps(plain)), {path: tensor.clone() for path, tensor in tensors.items()}
    )


def assert_same(first, second):
    ours, theirs = flatten(first.tree()), flatten(second.tree())
    assert ours[1] == theirs[1]
    assert ours[0].keys() == theirs[0].keys()
    for path, tensor in ours[0].items():
        assert torch.equal(tensor, theirs[0][path]), path


@pytest.mark.parametrize(
    "optimizer",
    [
        "adamw",
        "sgd",
        "lamb",
        "lion",
        "adan",
        "adafactor",
        "nadamw",
        "rmsproptf",
        "adabelief",
        "lookahead_adamw",
    ],
)
def test_a_state_read_back_goes_on_bit_for_bit(optimizer):
    undisturbed, begun = make_state(optimizer), make_state(optimizer)
    advance(undisturbed, 5)
    advance(begun, 3)
    begun.best = {"step": 2, "score": 0.1 + 0.2}
    resumed = make_state(optimizer)
    resumed.load(through_json(begun))
    assert_same(resumed, begun)
    advance(resumed, 2)
    undisturbed.best = begun.best
    assert_same(resumed, undisturbed)


def test_nothing_is_left_out():
    state = make_state()
    advance(state, 3)
    other = make_state()
    other.load(through_json(state))
    assert other.step == 3
    assert other.scaler.get_scale() == state.scaler.get_scale() == 16.0
    assert other.scaler.state_dict()["_growth_tracker"] == 1
    assert other.objective.number == 1.1**3 or math.isclose(other.objective.number, 1.1**3)


def test_the_result_is_the_average_and_of_the_rest_the_model():
    state = make_state()
    advance(state, 3)
    weights = state.weights()
    assert weights.keys() == state.model.state_dict().keys()
    assert torch.equal(weights["0.weight"], state.average.tensors["0.weight"])
    assert weights["1.num_batches_tracked"] == 3
    weights["0.weight"].zero_()
    assert state.average.tensors["0.weight"].abs().max() > 0


def test_without_an_average_the_result_is_the_model():
    state = make_state(average=False)
    advance(state, 2)
    for name, tensor in state.model.state_dict().items():
        assert torch.equal(state.weights()[name], tensor)


def test_flatten_takes_apart_what_unflatten_puts_together():
    tensor = torch.arange(3)
    tree = {
        "a": {1: tensor, "b.c": [None, True, 2, 0.1, "x", ()]},
        "": {},
        "t": (tensor + 1, {"list": [tensor + 2]}),
        "nan": float("inf"),
        "dtype": torch.bfloat16,
    }
    tensors, plain = flatten(tree)
    assert set(tensors) == {"a.1", "t.0", "t.1.list.0"}
    back = unflatten(json.loads(json.dumps(plain)), tensors)
    assert repr(back) == repr(tree)
    assert type(back["t"]) is tuple
    assert back["a"]["b.c"][1] is True


def test_numbers_survive_to_the_bit():
    numbers = [0.1 + 0.2, 1e-320, -0.0, 2**70, 1 / 3]
    _, plain = flatten({"numbers": numbers})
    back = unflatten(json.loads(json.dumps(plain)), {})["numbers"]
    assert [float(a).hex() for a in back] == [float(a).hex() for a in numbers]


def test_what_can_not_be_saved_is_named_with_its_place():
    with pytest.raises(TypeError, match=r"^expected tensors and plain data to save, got set at a\.0\.b$"):
        flatten({"a": [{"b": {1}}]})


def test_room_for_an_optimizer_tensor_has_its_size_and_type():
    state = make_state()
    room = state.template("optimizer.state.1.exp_avg", torch.Size([4]), torch.float64)
    assert (room.shape, room.dtype, room.requires_grad) == (torch.Size([4]), torch.float64, False)
    assert state.template("optimizer.state.1.step", torch.Size([]), torch.float32).shape == ()


def test_a_state_is_not_bound_to_what_it_was_loaded_from():
    state, other = make_state(), make_state()
    advance(state, 2)
    tree = through_json(state)
    other.load(tree)
    before = copy.deepcopy(other.model.state_dict())
    tree["model"]["0.weight"].zero_()
    assert torch.equal(other.model.state_dict()["0.weight"], before["0.weight"])
