import contextlib
import copy

import timm
import torch
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tapadl.training.weight_average import WeightAverage


def make_model():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))


def train(model, steps):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(5, 3, 4, 4)).square().mean().backward()
        optimizer.step()
        yield


def test_the_average_is_the_one_that_torch_and_timm_keep():
    model = make_model()
    average = WeightAverage(model, decay=0.8)
    swa = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8), use_buffers=True)
    timms = ModelEmaV3(model, decay=0.8, foreach=True)
    swa.update_parameters(model)
    for _ in train(model, 5):
        average.update()
        swa.update_parameters(model)
        timms.update(model)
    assert average.tensors.keys() == {name for name in model.state_dict() if "num_batches" not in name}
    for name, tensor in average.tensors.items():
        torch.testing.assert_close(tensor, timms.module.state_dict()[name], rtol=0, atol=1e-6)
        torch.testing.assert_close(tensor, swa.module.state_dict()[name], rtol=0, atol=1e-6)
        assert not torch.equal(tensor, model.state_dict()[name])


def test_in_place_the_model_is_the_average_and_afterwards_itself_to_the_bit():
    model = make_model()
    average = WeightAverage(model, decay=0.8)
    for _ in train(model, 3):
        average.update()
    before = copy.deepcopy(model.state_dict())
    kept = {name: tensor.clone() for name, tensor in average.tensors.items()}
    with contextlib.suppress(ZeroDivisionError), average.in_place():
        inside = copy.deepcopy(model.state_dict())
        raise ZeroDivisionError
    for name, tensor in kept.items():
        assert torch.equal(inside[name], tensor)
    for name, tensor in before.items():
        assert torch.equal(model.state_dict()[name], tensor)
    for name, tensor in kept.items():
        assert torch.equal(average.tensors[name], tensor)


def test_the_average_begins_with_the_weights_and_has_no_part_in_the_gradient():
    model = timm.create_model("vit_tiny_patch16_224", img_size=16, depth=1, embed_dim=8, num_heads=1)
    average = WeightAverage(model, decay=0.9)
    for name, tensor in average.tensors.items():
        assert torch.equal(tensor, model.state_dict()[name])
        assert not tensor.requires_grad
        assert tensor.data_ptr() != model.state_dict()[name].data_ptr()


def test_a_tensor_of_several_names_comes_back_to_the_bit():
    model = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
    model[1].weight = model[0].weight
    average = WeightAverage(model, decay=0.5)
    with torch.no_grad():
        model[0].weight.add_(1)
    average.update()
    weight, kept = model[0].weight.clone(), {name: tensor.clone() for name, tensor in average.tensors.items()}
    for _ in range(2):
        with average.in_place():
            assert torch.equal(model[0].weight, kept["0.weight"])
        assert torch.equal(model[0].weight, weight)
        assert all(torch.equal(tensor, kept[name]) for name, tensor in average.tensors.items())
