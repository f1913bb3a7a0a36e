import pytest
import torch

from tapadl.demo.settings import VARIANTS, ModelConfig
from tapadl.demo.variants import build_model, has_adl, has_tap


def build(variant, seed=3):
    return build_model(variant, ModelConfig(), num_classes=10, seed=seed)


@pytest.mark.parametrize("variant", VARIANTS)
def test_shared_weights_start_the_same_in_every_variant(variant):
    plain, other = build("plain").state_dict(), build(variant).state_dict()
    assert all(torch.equal(other[name], tensor) for name, tensor in plain.items())
    assert {name for name in other if name not in plain} == {name for name in other if ".tap." in name}
    assert any(".tap." in name for name in other) == has_tap(variant)


def test_seed_decides_the_weights_tap_included_and_global_state_nothing():
    torch.manual_seed(1)
    first = build("tap+adl").state_dict()
    state = torch.get_rng_state()
    second = build("tap+adl").state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = build("tap+adl", seed=4).state_dict()
    name = "blocks.1.tap.dilation_predictor.proj.0.weight"
    assert not torch.equal(first[name], other[name])


def test_model_is_the_one_described():
    model = build("plain")
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert model.pos_embed.shape == (1, 49, 64)
    assert not model.pos_embed.requires_grad
    assert len(model.blocks) == 4


def test_variants_are_what_their_names_say():
    assert [name for name in VARIANTS if has_tap(name)] == ["tap", "tap+adl"]
    assert [name for name in VARIANTS if has_adl(name)] == ["adl", "tap+adl"]
