import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

import tapadl
from tapadl.training.adaptation import INTERVAL, DiversificationTerm
from tapadl.training.objective import SupervisedObjective

LABELS = torch.arange(4) % 3


@pytest.fixture
def model():
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=3
    ).double()
    for block in vit.blocks:
        nn.init.normal_(block.attn.qkv.weight, std=0.6)
    return vit


@pytest.fixture
def images():
    return torch.randn(4, 3, 16, 16, dtype=torch.double)


def run(objective, model, batch, step=0):
    """What all passes report; their gradients are in the model."""
    model.zero_grad()
    found = [each(model) for each in objective.passes(batch, step)]
    for parts in found:
        parts["loss"].backward()
    return found


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def assert_gradient_is(found, model, loss):
    model.zero_grad()
    loss.backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-12, atol=1e-15)


def test_it_is_cross_entropy_unless_more_is_asked_for(model, images):
    objective = SupervisedObjective(F.cross_entropy)
    (parts,) = run(objective, model, (images, LABELS))
    found = gradients(model)
    expected = F.cross_entropy(model(images), LABELS)
    assert parts.keys() == {"loss", "cross_entropy"}
    assert parts["loss"] == parts["cross_entropy"] == expected
    assert_gradient_is(found, model, expected)
    assert not objective.measures(0)
    assert objective.probes((images, LABELS), 0) == ()
    assert objective.state() == {}


def test_adl_is_added_with_its_weight(model, images):
    term = DiversificationTerm(model, weight=0.7, tau=1.5)
    (parts,) = run(SupervisedObjective(F.cross_entropy, diversification=term), model, (images, LABELS))
    found = gradients(model)
    term.close()
    diversification = tapadl.AttentionDiversificationLoss(model, tau=1.5)
    cross_entropy = F.cross_entropy(model(images), LABELS)
    adl = diversification()
    assert parts.keys() == {"loss", "cross_entropy", "adl"}
    assert (parts["cross_entropy"], parts["adl"]) == (cross_entropy, adl)
    assert_gradient_is(found, model, cross_entropy + 0.7 * adl)
    assert not parts["adl"].requires_grad
    assert not parts["cross_entropy"].requires_grad


def test_augmented_images_have_a_pass_of_their_own_without_adl(model, images):
    term = DiversificationTerm(model, weight=0.7)
    objective = SupervisedObjective(F.cross_entropy, diversification=term, augment=torch.neg)
    augmented, clean = run(objective, model, (images, LABELS))
    found = gradients(model)
    term.close()
    assert augmented.keys() == {"loss", "augmented_cross_entropy"}
    assert clean.keys() == {"loss", "cross_entropy", "adl"}
    diversification = tapadl.AttentionDiversificationLoss(model)
    on_augmented = F.cross_entropy(model(-images), LABELS)
    expected = on_augmented + F.cross_entropy(model(images), LABELS) + 0.7 * diversification()
    assert augmented["augmented_cross_entropy"] == on_augmented
    assert_gradient_is(found, model, expected)


def test_images_are_mixed_once_for_all_passes_of_a_step(model, images):
    mixed = []

    def mix(images, labels):
        mixed.append(images.flip(0))
        return mixed[-1], F.one_hot(labels, 3).double()

    objective = SupervisedObjective(F.cross_entropy, mix=mix, augment=torch.neg)
    augmented, clean = run(objective, model, (images, LABELS))
    assert len(mixed) == 1
    assert clean["loss"] == F.cross_entropy(model(images.flip(0)), LABELS)
    assert augmented["loss"] == F.cross_entropy(model(-images.flip(0)), LABELS)


def test_a_probe_is_the_gradient_of_adl_alone_and_reaches_every_parameter(model, images):
    term = DiversificationTerm(model, weight=0.7, target_share=0.2)
    objective = SupervisedObjective(F.cross_entropy, diversification=term)
    (probe,) = objective.probes((images, LABELS), 0)
    parts = probe(model)
    model.zero_grad()
    parts["loss"].backward()
    found = gradients(model)
    assert found["head.weight"].abs().max() == 0
    term.close()
    diversification = tapadl.AttentionDiversificationLoss(model)
    model(images)
    model.zero_grad()
    diversification().backward()
    for name, parameter in model.named_parameters():
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(found[name], expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("options", "measures", "probes"),
    [
        ({}, False, 0),
        ({"target_share": 0.2}, True, 1),
        ({"tau_quantile": 0.9}, True, 0),
        ({"target_share": 0.2, "tau_quantile": 0.9}, True, 1),
    ],
)
def test_only_what_adapts_is_measured(model, images, options, measures, probes):
    objective = SupervisedObjective(F.cross_entropy, diversification=DiversificationTerm(model, **options))
    assert objective.measures(0) == objective.measures(INTERVAL) == measures
    assert not objective.measures(1)
    assert len(objective.probes((images, LABELS), 0)) == probes


def test_what_it_has_learned_is_kept_and_gone_on_with(model):
    def make():
        return SupervisedObjective(
            F.cross_entropy, diversification=DiversificationTerm(model, target_share=0.2, tau_quantile=0.9)
        )

    first, second = make(), make()
    first.observe({"probe_norm": 1.0, "gradient_norm": 2.0, "measured_tau": 1.25})
    assert first.state() != second.state()
    second.load_state(first.state())
    assert second.state() == first.state()
    assert second.state()["adl_tau"] == 1.25


def test_without_adl_there_is_nothing_to_learn():
    objective = SupervisedObjective(F.cross_entropy)
    objective.observe({"gradient_norm": 1.0})
    objective.load_state({})
    assert objective.state() == {}
