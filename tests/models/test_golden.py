"""Our models against the released ones, in float64, with the parameters of the golden runs."""

import copy
import gzip
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

import tapadl
import tapadl.models

GOLDEN = Path(__file__).parents[1] / "golden"
# Largest distance of logits: the position table of FAN is float32 in both, and may round otherwise.
TOLERANCES = {
    "tap_fan_tiny_12_p16_224": 5e-6,
    "tap_fan_small_12_p4_hybrid": 5e-6,
    "tap_fan_base_16_p4_hybrid": 5e-6,
    "tap_rvt_tiny": 1e-8,
    "tap_rvt_tiny_plus": 1e-8,
    "tap_rvt_base_plus": 1e-8,
}

spec = importlib.util.spec_from_file_location("fill_rule", GOLDEN / "fill_rule.py")
fill_rule = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fill_rule)


def official_name(name):
    """The released blocks hold the predictor of TAP themselves."""
    return name.replace(".tap.dilation_predictor.", ".dilation_predictor.")


def filled(model):
    """The model with the parameters and buffers of the golden runs, in float64."""
    state = {
        key: torch.from_numpy(fill_rule.fill(official_name(key), value.shape))
        if value.is_floating_point()
        else value
        for key, value in model.state_dict().items()
    }
    model.load_state_dict(state)
    return model.double()


def golden_images(side, seed):
    return torch.from_numpy(fill_rule.model_input((2, 3, side, side), seed)).double()


@dataclass
class Run:
    """One model in evaluation mode, and what its golden run and ours gave."""

    model: nn.Module
    facts: dict
    arrays: dict
    tolerance: float
    logits: torch.Tensor
    block_outputs: list
    branch_weights: list
    per_layer: dict
    adl: dict

    def assert_close(self, actual, key, *, rtol=0.0, atol=0.0):
        torch.testing.assert_close(actual.detach(), torch.from_numpy(self.arrays[key]), rtol=rtol, atol=atol)


@pytest.fixture(scope="module", params=TOLERANCES)
def run(request):
    with gzip.open(GOLDEN / f"{request.param}.json.gz", "rt") as file:
        facts = json.load(file)
    arrays = np.load(GOLDEN / f"{request.param}.npz")
    model = filled(timm.create_model(request.param)).eval()
    losses = {tau: tapadl.AttentionDiversificationLoss(model, tau=tau) for tau in (1, 2, 3)}
    block_outputs, branch_weights, handles = [], [], []

    def note_block(_block, _inputs, output):
        block_outputs.append((output[0] if isinstance(output, tuple) else output).detach())

    def note_weights(tap, inputs, _output):
        branch_weights.append(tap.branch_weights(*inputs[:3]).detach())

    for site in model.attention_sites():
        handles += [site.block.register_forward_hook(note_block)]
        handles += [site.block.tap.register_forward_hook(note_weights)]
    logits = model(golden_images(224, seed=0)).detach()
    for handle in handles:
        handle.remove()
    per_layer = {tau: torch.stack(loss.per_layer()).detach() for tau, loss in losses.items()}
    for loss in losses.values():
        loss.close()
    adl = {tau: values.mean().item() for tau, values in per_layer.items()}
    return Run(
        model, facts, arrays, TOLERANCES[request.param], logits, block_outputs, branch_weights, per_layer, adl
    )


def divided_as_released(loss, num_layers):
    """The released mean over layers divides by their number + 1e-6."""
    return loss * num_layers / (num_layers + 1e-6)


def test_state_has_the_released_names_and_shapes_in_their_order(run):
    own = [[official_name(key), list(value.shape)] for key, value in run.model.state_dict().items()]
    assert own == [[entry[0], entry[1]] for entry in run.facts["state_dict"]]
    assert [official_name(name) for name, _ in run.model.named_parameters()] == run.facts["parameters"]


def test_logits_are_those_of_the_released_model(run):
    run.assert_close(run.logits, "logits_f64", atol=run.tolerance)


def test_logits_at_160_pixels_are_those_of_the_released_model(run):
    with torch.no_grad():
        logits = run.model(golden_images(160, seed=1))
    run.assert_close(logits, "logits160_f64", atol=run.tolerance)


def test_every_block_gives_what_the_released_block_gives(run):
    own = [[output.norm().item(), output.mean().item()] for output in run.block_outputs]
    assert own == [pytest.approx(pair, rel=1e-8, abs=1e-8) for pair in run.facts["block_output_l2_mean_f64"]]


def test_branch_weights_are_those_of_the_released_model(run):
    means = torch.stack([weights.mean(dim=(2, 3)) for weights in run.branch_weights])
    run.assert_close(means, "tap_mask_mean_f64", atol=1e-6)
    run.assert_close(run.branch_weights[0].permute(0, 2, 3, 1), "tap_mask_first_f64", atol=1e-6)


@pytest.mark.parametrize("tau", [1, 2, 3])
def test_diversification_loss_is_that_of_the_released_model(run, tau):
    golden = run.facts["adl"][str(tau)]
    layers = len(golden["f64_per_layer"])
    assert divided_as_released(run.adl[tau], layers) == pytest.approx(golden["f64"], abs=1e-6)
    for own, expected in zip(run.per_layer[tau].tolist(), golden["f64_per_layer"], strict=True):
        assert divided_as_released(own, 1) == pytest.approx(expected, abs=1e-5)


def test_training_step_is_that_of_the_released_model(run):
    golden = run.facts["train"]
    model = copy.deepcopy(run.model).train()
    with tapadl.AttentionDiversificationLoss(model, tau=2) as diversification:
        logits = model(golden_images(224, seed=0))
        adl = divided_as_released(diversification(), len(model.attention_sites()))
        loss = F.cross_entropy(logits, torch.tensor(golden["labels"])) + adl
        loss.backward()
    run.assert_close(logits, "train_logits_f64", atol=run.tolerance)
    assert adl.item() == pytest.approx(golden["adl_th2_f64"], abs=1e-6)
    assert loss.item() == pytest.approx(golden["loss_f64"], abs=5e-6)

    buffers = {official_name(name): buffer.double().norm().item() for name, buffer in model.named_buffers()}
    for name, expected in golden["running_l2_after_f64"].items():
        assert buffers[name] == pytest.approx(expected, rel=1e-6), name

    assert golden["params_without_grad"] == []
    gradients = [parameter.grad for parameter in model.parameters()]
    # FAN's float32 position table leaves its own rounding in the gradients too.
    bounds = {"rtol": 1e-7, "atol": 1e-10} if run.tolerance == 1e-8 else {"rtol": 1e-5, "atol": 1e-7}
    run.assert_close(torch.stack([gradient.norm() for gradient in gradients]), "grad_l2_f64", **bounds)
    run.assert_close(torch.stack([gradient.sum() for gradient in gradients]), "grad_sum_f64", **bounds)
    first = [F.pad(gradient.flatten()[:4], (0, max(0, 4 - gradient.numel()))) for gradient in gradients]
    run.assert_close(torch.stack(first), "grad_first4_f64", **bounds)
