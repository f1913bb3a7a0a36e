import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch

import tapadl
from tapadl.diagnostics import attention_focus, measure_focus, received_attention


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


def plain_numbers(rows: np.ndarray, num_prefix_tokens: int, tau: float = 2.0) -> list[float]:
    """The numbers of one map (N, M) by their formulas, one query at a time."""
    num_keys = rows.shape[1]
    received = rows.mean(axis=0)
    ascending = np.sort(received)
    strong = [np.where(row > tau / num_keys, row, 0) for row in (*rows, received)]
    return [
        ascending[num_keys - math.ceil(num_keys / 20) :].sum(),
        ascending[num_keys - math.ceil(num_keys / 100) :].sum(),
        2 * sum(j * ascending[j - 1] for j in range(1, num_keys + 1)) / num_keys - (num_keys + 1) / num_keys,
        math.exp(-sum(share * math.log(share) for share in received if share > 0)),
        1 / sum(share**2 for share in received),
        np.mean([cosine(row, strong[-1]) for row in strong[:-1]]),
        np.mean([cosine(row, received) for row in rows]),
        received[:num_prefix_tokens].sum(),
    ]


def cosine(left: np.ndarray, right: np.ndarray) -> float:
    lengths = np.sqrt((left**2).sum() * (right**2).sum())
    return float((left * right).sum() / lengths) if lengths else 0.0


def test_numbers_of_every_layer_and_head_equal_plain_formulas_on_recorded_maps(watched, recorded_maps):
    maps = recorded_maps(watched.model, watched.images)

    report = measure_focus(watched.model, watched.images)

    assert len(report.layers) == len(maps) == len(watched.prefix)
    for layer, recorded, prefix, windows in zip(
        report.layers, maps, watched.prefix, watched.windows, strict=True
    ):
        samples, num_heads, queries, keys = recorded.shape
        assert (layer.num_queries, layer.num_keys, layer.num_windows) == (queries, keys, windows)
        assert samples == windows * len(watched.images)
        assert len(layer.heads) == num_heads
        every = np.concatenate((recorded, recorded.mean(axis=1, keepdims=True)), axis=1)
        for head, found in enumerate((*layer.heads, layer.mean)):
            expected = np.mean([plain_numbers(sample[head], prefix) for sample in every], axis=0)
            np.testing.assert_allclose(list(asdict(found).values()), expected, rtol=1e-6, atol=1e-9)


def test_overlap_is_what_the_loss_says(make_model):
    watched = make_model("swin")
    with tapadl.AttentionDiversificationLoss(watched.model) as diversification:
        watched.model(watched.images)
        expected = [float(loss.detach()) for loss in diversification.per_layer()]

    report = measure_focus(watched.model, watched.images)

    assert [layer.mean.overlap for layer in report.layers] == pytest.approx(expected, rel=1e-9)
    assert max(expected) > 0.1


def test_batches_change_nothing(make_model):
    watched = make_model("vit with registers", count=5)

    whole = measure_focus(watched.model, watched.images)
    parts = measure_focus(watched.model, iter(watched.images.split(2)))

    assert parts.num_images == 5
    for left, right in zip(whole.layers, parts.layers, strict=True):
        assert asdict(left.mean) == pytest.approx(asdict(right.mean), rel=1e-12)


def test_images_of_two_sizes_are_refused(make_model):
    watched = make_model("fan hybrid", count=1)

    with pytest.raises(ValueError, match="batches of images of one size"):
        measure_focus(watched.model, [watched.images, watched.images[..., :32]])


@pytest.mark.parametrize("images", [torch.empty(0, 3, 32, 48), []])
def test_no_image_is_an_error(make_model, images):
    with pytest.raises(ValueError, match="at least one image, got none"):
        measure_focus(make_model("vit with registers").model, images)


def test_padding_is_no_key():
    """Of 8 keys the last 4 are masked: uniform attention over the rest leans on nothing."""
    model = OnePaddedSite()

    (layer,) = measure_focus(model, torch.zeros(2, 8, 4)).layers

    assert layer.mean.effective_keys == pytest.approx(4)
    assert layer.mean.participation == pytest.approx(4)
    assert layer.mean.gini == pytest.approx(0, abs=1e-6)
    assert layer.mean.peak_share == pytest.approx(1 / 4)
    assert layer.mean.overlap == 0
    assert layer.mean.cosine == pytest.approx(1)


class OnePaddedSite(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = PaddedAttention()

    def attention_sites(self):
        return [tapadl.Site(self, self.attention, torch.nn.Identity(), 0, (1, 8))]

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.attention(tokens)


class PaddedAttention(torch.nn.Module):
    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        heads = tokens.unflatten(-1, (2, -1)).transpose(1, 2)
        mask = (torch.arange(8) < 4)[None, None, None]
        return torch.nn.functional.scaled_dot_product_attention(heads, heads, heads, attn_mask=mask)


def test_chosen_blocks_leave_class_attention_out(make_model):
    watched = make_model("fan hybrid")

    names = [layer.name for layer in measure_focus(watched.model, watched.images).layers]
    chosen = [layer.name for layer in measure_focus(watched.model, watched.images, blocks=[-1]).layers]

    assert names == ["blocks.0", "blocks.1", "cls_attn_blocks.0", "cls_attn_blocks.1"]
    assert chosen == ["blocks.1"]


def test_a_model_in_training_with_gradients_and_autocast_is_left_as_it_was(make_model):
    watched = make_model("demo")
    model, images = watched.model.float().train(), watched.images.float()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = measure_focus(model, images)

    with torch.enable_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = measure_focus(model, images)

    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert found.layers[0].mean.gini == pytest.approx(expected.layers[0].mean.gini, rel=0.1)


def test_a_report_is_frozen_plain_data_and_a_picture(make_model):
    watched = make_model("fan hybrid", count=1)
    report = measure_focus(watched.model, watched.images)

    content = json.loads(json.dumps(report.to_json(), allow_nan=False))
    figure = report.plot()

    assert content["model"] == "FAN"
    assert content["layers"][1]["heads"][0]["gini"] == report.layers[1].heads[0].gini
    with pytest.raises(AttributeError, match="cannot assign"):
        report.tau = 1.0
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert len(panels) == 8
    drawn = panels["Gini of received attention"].lines[0].get_ydata()
    assert list(drawn) == [layer.mean.gini for layer in report.layers]
    assert len(panels["cosine with the mean row"].lines[0].get_ydata()) == 2  # class attention has one row
