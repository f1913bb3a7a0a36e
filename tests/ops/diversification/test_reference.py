import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tapadl.ops.diversification import attention_diversification, attention_diversification_from_map

GOLDEN = Path(__file__).parents[2] / "golden"
ARRAYS = np.load(GOLDEN / "adl_alone.npz")
CASES = json.loads(gzip.decompress((GOLDEN / "adl_alone.json.gz").read_bytes()))["cases"]

# The official mean over layers divides by (layers + 1e-6): golden/README.md.
ONE_LAYER = 1 + 1e-6
TWO_LAYERS = (2 + 1e-6) / 2


def golden_map(batch, layer, dtype):
    return torch.from_numpy(ARRAYS[f"{batch}_attn_{layer}"]).to(dtype).requires_grad_()


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("tau", [1, 2, 3])
def test_loss_and_gradient_of_golden_maps_agree_to_rounding(tau, layer):
    attention = golden_map("batch", layer, torch.float64)
    loss = attention_diversification_from_map(attention, tau=tau)
    loss.backward()
    case = CASES[f"batch_f64_th{tau}"]
    assert loss.item() == pytest.approx(case["per_layer"][layer] * ONE_LAYER, rel=0, abs=1e-9)

    golden = torch.from_numpy(ARRAYS[f"batch_f64_th{tau}_grad_{layer}"])
    gradient = attention.grad / 2 / TWO_LAYERS
    for head in gradient.unbind(1):
        torch.testing.assert_close(head, golden, rtol=0, atol=1e-9)
    # The published norm runs over every head.
    assert gradient.norm().item() == pytest.approx(case["grad_l2"][layer], rel=0, abs=1e-9)


@pytest.mark.parametrize("tau", [1, 2, 3])
def test_mean_over_golden_layers_agrees_to_rounding(tau):
    losses = [
        attention_diversification_from_map(golden_map("batch", layer, torch.float64), tau=tau)
        for layer in (0, 1)
    ]
    total = torch.stack(losses).mean().item()
    assert total == pytest.approx(CASES[f"batch_f64_th{tau}"]["loss"] * TWO_LAYERS, rel=0, abs=1e-9)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("tau", [1, 2, 3])
def test_golden_batch_of_one_keeps_its_batch_axis(tau, layer):
    loss = attention_diversification_from_map(golden_map("batch1", layer, torch.float64), tau=tau)
    golden = CASES[f"batch1_f64_th{tau}"]["without_squeeze_per_layer"][layer]
    # This value was computed without the factor of the mean over layers.
    assert loss.item() == pytest.approx(golden, rel=0, abs=1e-9)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("tau", [1, 2, 3])
def test_golden_float32_runs_agree_to_float32_rounding(tau, layer):
    attention = golden_map("batch", layer, torch.float32)
    loss = attention_diversification_from_map(attention, tau=tau)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(CASES[f"batch_f32_th{tau}"]["per_layer"][layer], abs=1e-5)
    golden = torch.from_numpy(ARRAYS[f"batch_f32_th{tau}_grad_{layer}"])
    torch.testing.assert_close(attention.grad[:, 0] / 2, golden, rtol=1e-5, atol=1e-7)


def test_gradient_of_a_map_passes_gradcheck_once_and_twice():
    attention = torch.rand(2, 3, 5, 7, dtype=torch.float64).softmax(-1)
    threshold = 1.05 / 7
    rows = attention.mean(1)
    assert (rows - threshold).abs().min() > 1e-5
    assert (rows.mean(1) - threshold).abs().min() > 1e-5
    attention.requires_grad_()

    def loss(attention):
        return attention_diversification_from_map(attention, tau=1.05)

    assert torch.autograd.gradcheck(loss, attention)
    assert torch.autograd.gradgradcheck(loss, attention)


def test_second_derivative_exists_where_a_row_is_empty():
    attention = torch.full((1, 2, 3, 8), 1 / 8, dtype=torch.float64)
    attention[:, :, 0] = torch.eye(8, dtype=torch.float64)[0]
    attention[:, :, 1] = torch.rand(8, dtype=torch.float64).mul(5).softmax(-1)
    attention.requires_grad_()
    loss = attention_diversification_from_map(attention)
    (gradient,) = torch.autograd.grad(loss, attention, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), attention)
    assert gradient.isfinite().all()
    assert second.isfinite().all()


def test_overfocused_maps_score_one_and_uniform_or_disjoint_maps_zero():
    collapsed = torch.zeros(2, 3, 5, 9)
    collapsed[..., 4] = 1
    assert attention_diversification_from_map(collapsed).item() == pytest.approx(1)
    assert attention_diversification_from_map(torch.full((2, 3, 5, 9), 1 / 9)) == 0
    assert attention_diversification_from_map(torch.eye(9).expand(2, 3, 9, 9)) == 0


def test_half_the_rows_on_each_of_two_keys_score_the_cosine_of_45_degrees():
    attention = torch.zeros(1, 1, 4, 8)
    attention[:, :, :2, 0] = 1
    attention[:, :, 2:, 1] = 1
    assert attention_diversification_from_map(attention).item() == pytest.approx(0.5**0.5)


def test_query_and_key_give_the_loss_of_torchs_softmax_map():
    query, key = torch.randn(2, 3, 11, 4, dtype=torch.float64), torch.randn(2, 3, 6, 4, dtype=torch.float64)
    attention = (query @ key.mT * 0.7).softmax(-1)
    expected = attention_diversification_from_map(attention, tau=1.2)
    loss = attention_diversification(query, key, tau=1.2, scale=0.7, impl="reference")
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_maps_are_summed_in_float32(dtype):
    attention = (torch.randn(2, 3, 20, 20) * 3).softmax(-1).to(dtype)
    loss = attention_diversification_from_map(attention)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, attention_diversification_from_map(attention.float()))


def test_mean_row_says_what_all_pairs_do_where_rows_have_one_length():
    # docs/theory/adl.md: P = (N L^2 - 1) / (N - 1)
    generator = torch.Generator().manual_seed(0)
    row = torch.rand(12, generator=generator, dtype=torch.float64).softmax(dim=0)
    rows = torch.stack([row[torch.randperm(12, generator=generator)] for _ in range(12)])
    loss = attention_diversification_from_map(rows[None, None], tau=0.0)
    cosines = torch.nn.functional.cosine_similarity(rows[:, None], rows[None], dim=-1)
    pairs = (cosines.sum() - 12) / (12 * 11)
    torch.testing.assert_close((12 * loss**2 - 1) / 11, pairs)
