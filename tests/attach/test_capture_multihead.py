"""torch's nn.MultiheadAttention, whose own maps (need_weights) are the oracle."""

import copy

import pytest
import torch
from torch import nn

import tapadl
from tapadl.ops.diversification import attention_diversification_from_map

ROWS, COLS, DIM, HEADS = 3, 4, 16, 4
TOKENS = ROWS * COLS


class Attends(nn.Module):
    """One nn.MultiheadAttention, called with what a test asks for."""

    def __init__(self, **options):
        super().__init__()
        torch.manual_seed(0)
        self.attn = nn.MultiheadAttention(DIM, HEADS, **options).double()
        for name, parameter in self.attn.named_parameters():
            if "in_proj" in name or "_proj_weight" in name:  # uneven enough to pass the threshold of the loss
                nn.init.normal_(parameter, std=0.7)

    def forward(self, *inputs, **options):
        return self.attn(*inputs, **options)

    def listen(self):
        site = tapadl.Site(self, self.attn, self.attn, 0, (ROWS, COLS), refuses_tap="not asked for")
        return tapadl.AttentionDiversificationLoss(self, sites=[site], tau=1.2)


def tokens(*shape):
    return torch.randn(*shape, dtype=torch.double, generator=torch.Generator().manual_seed(1))


def mask_of_some():
    mask = torch.rand(TOKENS, TOKENS, generator=torch.Generator().manual_seed(2)) > 0.7
    return mask.fill_diagonal_(False)  # True may not attend


PADDING = torch.zeros(2, TOKENS, dtype=torch.bool)
PADDING[0, -3:] = True
CAUSAL = torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1)


def loss_of(maps, tau=1.2):
    """ADL of maps in which a mask left zeros: rows are measured by the keys they see, padding is left out."""
    losses = []
    for rows, seen in zip(maps.mean(1), (maps > 0).any(1), strict=True):
        counts = seen.any(1)
        if seen.shape[0] == seen.shape[1]:
            counts = counts & seen.any(0)
        rows, seen = rows[counts], seen[counts]
        share = seen / seen.sum(1, keepdim=True)
        mean_row = rows.mean(0)
        kept_mean = torch.where(mean_row > tau * share.mean(0), mean_row, 0.0)
        kept = torch.where(rows > tau / seen.sum(1, keepdim=True), rows, 0.0)
        losses.append(torch.cosine_similarity(kept, kept_mean[None], dim=1).mean())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize(
    ("options", "call"),
    [
        ({}, {}),
        ({"batch_first": True}, {}),
        ({"bias": False}, {}),
        ({"add_bias_kv": True, "add_zero_attn": True}, {"attn_mask": mask_of_some()}),
        ({"batch_first": True}, {"key_padding_mask": PADDING}),
        ({}, {"attn_mask": mask_of_some()}),
        ({}, {"attn_mask": mask_of_some().expand(2 * HEADS, -1, -1)}),
        ({}, {"attn_mask": tokens(TOKENS, TOKENS), "key_padding_mask": tokens(2, TOKENS)}),
        ({"batch_first": True}, {"attn_mask": mask_of_some(), "key_padding_mask": PADDING}),
        ({"batch_first": True}, {"attn_mask": CAUSAL, "is_causal": True}),
        ({}, {"attn_mask": CAUSAL, "is_causal": True, "key_padding_mask": PADDING}),
    ],
    ids=str,
)
def test_loss_and_gradient_equal_those_of_its_own_maps(options, call, need_weights):
    model = Attends(**options)
    shape = (2, TOKENS, DIM) if options.get("batch_first") else (TOKENS, 2, DIM)
    x = tokens(*shape).requires_grad_()
    _, maps = model(x, x, x, need_weights=True, average_attn_weights=False, **call)
    want = loss_of(maps)
    parameters = [x, *(p for name, p in model.named_parameters() if "in_proj" in name)]
    want_gradients = torch.autograd.grad(want, parameters)
    plain_output = model(x, x, x, need_weights=need_weights, **call)
    with model.listen() as diversification:
        output = model(x, x, x, need_weights=need_weights, **call)
        got = diversification()
    assert got > 0
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(got, parameters), want_gradients, rtol=1e-8, atol=1e-10)
    assert torch.equal(output[0], plain_output[0])
    assert torch.equal(output[1], plain_output[1]) if need_weights else output[1] is None


def test_cross_attention_with_keys_of_another_width_and_number():
    model = Attends(kdim=6, vdim=10, batch_first=True)
    inputs = tokens(2, TOKENS, DIM), tokens(2, 7, 6), tokens(2, 7, 10)
    _, maps = model(*inputs, average_attn_weights=False)
    with model.listen() as diversification:
        model(*inputs, need_weights=False)
        want = attention_diversification_from_map(maps, tau=1.2)
        assert want > 0
        torch.testing.assert_close(diversification(), want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("need_weights", [False, True])
def test_input_without_a_batch_counts_as_a_batch_of_one(need_weights):
    model = Attends()
    x = tokens(TOKENS, DIM)
    with model.listen() as diversification:
        model(x, x, x, need_weights=need_weights)
        alone = diversification()
        model(x[:, None], x[:, None], x[:, None], need_weights=need_weights)
        torch.testing.assert_close(alone, diversification(), rtol=1e-12, atol=1e-14)
        assert alone > 0


@pytest.mark.parametrize("need_weights", [False, True])
def test_the_map_before_attention_dropout_is_heard(need_weights):
    model = Attends(dropout=0.5)
    x = tokens(TOKENS, 2, DIM)
    with model.listen() as diversification:
        model.train()(x, x, x, need_weights=need_weights)
        training = diversification()
        model.eval()(x, x, x, need_weights=need_weights)
        torch.testing.assert_close(training, diversification(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("need_weights", [False, True])
def test_two_losses_hear_it_side_by_side(need_weights):
    model = Attends()
    x = tokens(TOKENS, 2, DIM)
    with model.listen() as one, model.listen() as two:
        model(x, x, x, need_weights=need_weights)
        assert torch.equal(one(), two())


@pytest.mark.parametrize("need_weights", [False, True])
def test_frozen_weights_in_evaluation_do_not_take_the_fast_path_past_the_loss(need_weights):
    model = Attends(batch_first=True).eval().requires_grad_(False)
    x = tokens(2, TOKENS, DIM)
    with model.listen() as diversification:
        model(x, x, x, need_weights=need_weights)
        frozen = diversification()
        model.requires_grad_(True)(x, x, x, need_weights=need_weights)
        torch.testing.assert_close(frozen, diversification(), rtol=1e-12, atol=1e-14)


@pytest.mark.slow
def test_compiles_as_a_whole_with_the_loss_inside():
    model = Attends(batch_first=True)
    x = tokens(2, TOKENS, DIM)
    diversification = model.listen()

    def step(x):
        return model(x, x, x, need_weights=False)[0].square().mean() + diversification()

    want = step(x)
    got = torch.compile(step, backend="aot_eager", fullgraph=True)(x)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(
        torch.autograd.grad(got, list(model.parameters())),
        torch.autograd.grad(want, list(model.parameters())),
    )


def make_encoder(norm_first):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(
        DIM, HEADS, dim_feedforward=32, dropout=0.0, batch_first=True, norm_first=norm_first
    )
    encoder = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False).double()
    for layer in encoder.layers:
        nn.init.normal_(layer.self_attn.in_proj_weight, std=0.7)
    return encoder


def sites_of(encoder, norm_first):
    """With the norm behind the attention, TAP enters where the layer hands its tokens to the attention."""
    return [
        tapadl.Site(layer, layer.self_attn, layer.norm1, 0, (ROWS, COLS))
        if norm_first
        else tapadl.Site(layer, layer.self_attn, layer, 0, (ROWS, COLS), entry="_sa_block")
        for layer in encoder.layers
    ]


def maps_of(encoder, x, padding):
    """Its maps, asked for with hooks that change the arguments of every attention."""
    maps = []

    def ask(_attention, inputs, options):
        return inputs, options | {"need_weights": True, "average_attn_weights": False}

    encoder = copy.deepcopy(encoder)
    for layer in encoder.layers:
        layer.self_attn.register_forward_pre_hook(ask, with_kwargs=True)
        layer.self_attn.register_forward_hook(lambda _m, _i, output: maps.append(output[1]))
    encoder(x, src_key_padding_mask=padding)
    return maps


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("padding", [None, PADDING])
def test_an_encoder_of_torch_takes_the_loss(norm_first, padding):
    encoder = make_encoder(norm_first)
    x = tokens(2, TOKENS, DIM)
    want = torch.stack([loss_of(m, tau=2.0) for m in maps_of(encoder, x, padding)]).mean()
    diversification = tapadl.AttentionDiversificationLoss(encoder, sites=sites_of(encoder, norm_first))
    for mode in (True, False):
        encoder.train(mode)(x, src_key_padding_mask=padding)
        torch.testing.assert_close(diversification(), want, rtol=1e-10, atol=1e-12)
        assert want > 0


@pytest.mark.parametrize("norm_first", [True, False])
def test_an_encoder_of_torch_takes_pooling_in_evaluation_too(norm_first):
    """torch's fused kernel for a whole layer would leave TAP out; it must not be taken."""
    encoder = make_encoder(norm_first)
    x = tokens(2, TOKENS, DIM)
    plain = encoder.eval()(x)
    sites = sites_of(encoder, norm_first)
    tapadl.attach_tap(encoder, sites=sites)
    with torch.no_grad():
        fused = encoder.eval()(x)
    want = encoder(x)  # with gradients, where that kernel is never taken
    torch.testing.assert_close(fused, want, rtol=1e-10, atol=1e-12)
    assert (want - plain).abs().max() > 1e-3


def test_pooling_the_query_alone_is_refused():
    encoder = make_encoder(norm_first=False)
    layer = encoder.layers[0]
    site = tapadl.Site(layer, layer.self_attn, layer.self_attn, 0, (ROWS, COLS))
    with pytest.raises(ValueError, match=r"got the attention itself, where TAP would pool the query alone"):
        tapadl.attach_tap(encoder, sites=[site])
