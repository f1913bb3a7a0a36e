import torch
from torch.autograd import forward_ad

from tapadl.ops.transforms import has_hidden_batch, is_transformed


def test_plain_tensors_are_not_transformed():
    tensor = torch.ones(2, requires_grad=True)
    assert not is_transformed(tensor)
    with forward_ad.dual_level():
        assert not is_transformed(tensor)
    assert not has_hidden_batch(tensor)


def test_transforms_and_tangents_are_noticed():
    seen = []

    def look(tensor):
        seen.append(is_transformed(tensor))
        return tensor.sum()

    torch.vmap(look)(torch.ones(2, 2))
    torch.func.grad(look)(torch.ones(2))
    with forward_ad.dual_level():
        look(forward_ad.make_dual(torch.ones(2), torch.ones(2)))
    assert seen == [True, True, True]


def test_a_batch_of_gradients_is_noticed_in_the_backward():
    tensor, seen = torch.ones(2, requires_grad=True), []
    doubled = tensor * 2
    doubled.register_hook(lambda grad: seen.append(has_hidden_batch(grad)))
    torch.autograd.grad(doubled, tensor, torch.ones(2), retain_graph=True)
    torch.autograd.grad(doubled, tensor, torch.ones(3, 2), is_grads_batched=True)
    assert seen == [False, True]
