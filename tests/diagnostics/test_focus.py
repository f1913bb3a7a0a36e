import math

import pytest
import torch

from tapadl.diagnostics import attention_focus, received_attention


def collapsed(num_keys: int, key: int = 2) -> torch.Tensor:
    attention = torch.zeros(2, 6, num_keys, dtype=torch.float64)
    attention[..., key] = 1.0
    return attention


@pytest.mark.parametrize("num_keys", [1, 7, 20, 49, 140])
def test_uniform_attention_spreads_over_all_keys(num_keys):
    focus = attention_focus(torch.full((2, 5, num_keys), 1 / num_keys, dtype=torch.float64))

    assert focus.top_share == pytest.approx(math.ceil(num_keys / 20) / num_keys)
    assert focus.effective_keys == pytest.approx(num_keys)
    assert focus.gini == pytest.approx(0, abs=1e-12)
    assert focus.overlap == (0 if num_keys > 1 else pytest.approx(0))
    assert focus.cosine == pytest.approx(1)


@pytest.mark.parametrize("num_keys", [3, 20, 49])
def test_collapsed_attention_leans_on_one_key(num_keys):
    focus = attention_focus(collapsed(num_keys))

    assert focus.top_share == pytest.approx(1)
    assert focus.effective_keys == pytest.approx(1)
    assert focus.gini == pytest.approx((num_keys - 1) / num_keys)
    assert focus.overlap == pytest.approx(1)
    assert focus.cosine == pytest.approx(1)


def test_queries_that_each_look_at_themselves_share_nothing():
    focus = attention_focus(torch.eye(10)[None])

    assert focus.effective_keys == pytest.approx(10, rel=1e-5)
    assert focus.overlap == 0
    assert focus.cosine == pytest.approx(1 / math.sqrt(10), rel=1e-5)


def test_half_the_keys_receive_everything():
    attention = torch.zeros(1, 4, 8)
    attention[..., :4] = 0.25

    focus = attention_focus(attention, top_fraction=0.5)

    assert focus.top_share == pytest.approx(1)
    assert focus.effective_keys == pytest.approx(4)
    assert focus.gini == pytest.approx(0.5)


def test_order_of_keys_and_a_doubled_batch_change_nothing():
    attention = torch.rand(3, 5, 21, dtype=torch.float64).softmax(dim=-1)
    shuffled = attention[..., torch.randperm(21)]

    for other in (shuffled, torch.cat((attention, attention))):
        for name, value in vars(attention_focus(attention)).items():
            assert getattr(attention_focus(other), name) == pytest.approx(value, rel=1e-12)


def test_half_precision_is_summed_in_float32():
    received = received_attention(torch.full((1, 4096, 3), 1 / 3, dtype=torch.bfloat16))

    assert received.dtype == torch.float32
    assert torch.equal(received, torch.full((1, 3), 1 / 3, dtype=torch.bfloat16).float())


@pytest.mark.parametrize(
    ("attention", "options", "message"),
    [
        (torch.zeros(2, 3), {}, r"\(B, N, M\).*got \(2, 3\)"),
        (torch.zeros(1, 0, 3), {}, r"without an empty axis, got \(1, 0, 3\)"),
        (torch.zeros(1, 3, 3, dtype=torch.int64), {}, "floating-point dtype, got torch.int64"),
        (torch.zeros(1, 3, 3), {"top_fraction": 0.0}, "top_fraction above 0 and at most 1, got 0.0"),
        (torch.zeros(1, 3, 3), {"tau": -1.0}, "tau of at least 0, got -1.0"),
    ],
)
def test_wrong_arguments_are_named(attention, options, message):
    with pytest.raises(ValueError, match=message):
        attention_focus(attention, **options)
