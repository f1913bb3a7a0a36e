import math

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

import tapadl
from tapadl.training.adaptation import INTERVAL, DiversificationTerm
from tapadl.training.objective import SupervisedObjective
from tapadl.training.settings import AdlSettings
from tapadl.training.state import TrainingState
from tapadl.training.step import Stepper

LABELS = torch.arange(6) % 3


def make_model(**options):
    torch.manual_seed(0)
    vit = timm.create_model(
        "vit_tiny_patch16_224",
        **{"img_size": (16, 24), "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2} | options,
        num_classes=3,
    ).double()
    for block in vit.blocks:
        nn.init.normal_(block.attn.qkv.weight, std=0.6)
    return vit


@pytest.fixture
def images():
    return torch.randn(6, 3, 16, 24, dtype=torch.double)


def attention_maps(model, images):
    """softmax(QK^T / sqrt(D)) of every block, by hand: (B, H, N, N) each."""
    maps, hooks = [], []
    for block in model.blocks:

        def listen(attention, inputs, _output):
            tokens = inputs[0]
            batch, count, _ = tokens.shape
            query, key, _ = (
                attention.qkv(tokens).view(batch, count, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
            )
            maps.append((query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])).softmax(-1))

        hooks.append(block.attn.register_forward_hook(listen))
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return maps


def test_both_adaptive_choices_are_off_by_default(images):
    model = make_model()
    term = DiversificationTerm(model, weight=0.5, tau=1.5)
    assert not term.adapts_weight
    assert not any(term.measures(step) for step in range(2 * INTERVAL))
    term.observe({"probe_norm": 1.0, "gradient_norm": 9.0})
    model(images)
    value, parts = term.term(INTERVAL)
    assert parts.keys() == {"adl"}
    assert term.state() == {"adl_weight": 0.5, "adl_tau": 1.5}
    loss = tapadl.AttentionDiversificationLoss(model, tau=1.5)
    model(images)
    assert value == 0.5 * loss()


@pytest.mark.parametrize(("step", "share"), [(0, 0.0), (1, 0.25), (3, 0.75), (4, 1.0), (400, 1.0)])
def test_the_weight_rises_linearly(step, share):
    assert DiversificationTerm(make_model(), weight=2.0, warmup=4).weight(step) == 2.0 * share
    assert DiversificationTerm(make_model(), weight=2.0).weight(step) == 2.0


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_the_weight_reaches_the_share_of_the_gradient_it_is_to_have(runs, one_process, images, share):
    """Measured by hand at the end, with torch's gradients: a model that stands still, ten measurements."""
    model = make_model()
    term = DiversificationTerm(model, weight=1.0, target_share=share)
    objective = SupervisedObjective(F.cross_entropy, diversification=term)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    state = TrainingState(model, optimizer, torch.amp.GradScaler("cpu", enabled=False), objective)
    stepper = Stepper(runs.make_settings(), state, runs.ConstantSchedule(), model, runs.CPU)
    for step in range(0, 12 * INTERVAL, INTERVAL):
        state.step = step
        stepper.step([(images[:4], LABELS[:4]), (images[4:], LABELS[4:])], images_of_step=6)
    weight = term.weight(10**6)
    term.close()

    def norm(loss):
        found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        return torch.cat([g.flatten() for g in found if g is not None]).norm().item()

    diversification = tapadl.AttentionDiversificationLoss(model)
    of_adl = norm((model(images), diversification())[1])
    of_all = norm(F.cross_entropy(model(images), LABELS) + weight * diversification())
    assert weight * of_adl / of_all == pytest.approx(share, rel=0.01)
    assert weight != pytest.approx(1.0, rel=0.1)


def test_each_measurement_goes_half_of_the_way():
    term = DiversificationTerm(make_model(), weight=1.0, target_share=0.5)
    # the weight that gives half of a gradient of 8 is 4
    for expected in (2.0, math.sqrt(8), math.sqrt(4 * math.sqrt(8))):
        term.observe({"probe_norm": 1.0, "gradient_norm": 8.0})
        assert term.weight(0) == pytest.approx(expected)


@pytest.mark.parametrize(("gradient_norm", "expected"), [(1e12, 100.0), (1e-12, 0.01)])
def test_the_weight_stays_within_a_factor_of_a_hundred(gradient_norm, expected):
    term = DiversificationTerm(make_model(), weight=1.0, target_share=0.5)
    for _ in range(20):
        term.observe({"probe_norm": 1.0, "gradient_norm": gradient_norm})
    assert term.weight(0) == pytest.approx(expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.0])
@pytest.mark.parametrize("name", ["probe_norm", "gradient_norm", "measured_tau"])
def test_a_measurement_that_says_nothing_changes_nothing(name, bad):
    term = DiversificationTerm(make_model(), target_share=0.5, tau_quantile=0.5)
    measured = {"probe_norm": 1.0, "gradient_norm": 1.0, "measured_tau": 2.0} | {name: bad}
    term.observe(measured)
    term.observe({})
    assert term.state()["adl_tau"] == 2.0
    assert (term.state()["adl_weight"] == 1.0) == (name != "measured_tau")


@pytest.mark.parametrize("patch_tokens_only", [False, True])
@pytest.mark.parametrize("quantile", [0.1, 0.8, 0.95])
@pytest.mark.parametrize("fused", [True, False])
def test_tau_is_the_quantile_of_attention_in_multiples_of_one_over_keys(
    images, quantile, patch_tokens_only, fused
):
    model = make_model()
    for block in model.blocks:
        block.attn.fused_attn = fused
    first = int(patch_tokens_only)
    expected = []
    for attention in attention_maps(model, images):
        rest = attention[:, :, first:, first:]
        rest = (rest / rest.sum(-1, keepdim=True)).mean(1)
        expected.append((rest * rest.shape[-1]).flatten(1).quantile(quantile, dim=1).mean())
    term = DiversificationTerm(model, tau_quantile=quantile, patch_tokens_only=patch_tokens_only)
    model(images)
    _, parts = term.term(0)
    assert parts["measured_tau"].item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-5)
    term.observe({"measured_tau": parts["measured_tau"].item()})
    model(images)
    value, parts = term.term(1)
    assert "measured_tau" not in parts
    assert parts["adl_tau"].item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-5)
    loss = tapadl.AttentionDiversificationLoss(
        model, tau=term.state()["adl_tau"], patch_tokens_only=patch_tokens_only
    )
    model(images)
    assert value == loss()


def test_that_share_of_the_attention_lies_below_the_threshold(images):
    model = make_model(depth=1)
    term = DiversificationTerm(model, tau_quantile=0.7)
    model(images[:1])
    term.observe({"measured_tau": term.term(0)[1]["measured_tau"].item()})
    (attention,) = attention_maps(model, images[:1])
    mean = attention.mean(1)
    below = (mean * mean.shape[-1] < term.state()["adl_tau"]).double().mean()
    assert below.item() == pytest.approx(0.7, abs=2 / mean.numel())


def test_the_quantile_of_long_sequences_is_that_of_evenly_spaced_queries():
    model = make_model(img_size=(48, 48))
    images = torch.randn(2, 3, 48, 48, dtype=torch.double)
    term = DiversificationTerm(model, tau_quantile=0.8)
    model(images)
    _, parts = term.term(0)
    rows = [index * 145 // 64 for index in range(64)]
    expected = [
        (attention.mean(1)[:, rows] * 145).flatten(1).quantile(0.8, dim=1).mean()
        for attention in attention_maps(model, images)
    ]
    assert parts["measured_tau"].item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-5)


def test_the_measured_quantile_does_not_depend_on_how_a_batch_is_cut(images):
    model = make_model()
    term = DiversificationTerm(model, tau_quantile=0.8)

    def measured(part):
        model(part)
        return term.term(0)[1]["measured_tau"]

    cut = (measured(images[:4]) * 4 + measured(images[4:]) * 2) / 6
    assert cut.item() == pytest.approx(measured(images).item(), rel=1e-6)


def test_keys_that_may_not_be_seen_do_not_count():
    """A causal attention, over a bias, and a key that is padding: the quantile of what is left, by hand."""
    from tapadl.attach.capture import QueryKey
    from tapadl.training.adaptation import _quantile_of_multiples

    query, key = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4)
    bias = torch.randn(1, 1, 5, 5)
    bias[..., 3] = -torch.inf
    for causal, attn_bias in ((True, None), (False, bias), (False, bias > -torch.inf)):
        call = QueryKey(query=query, key=key, scale=None, attn_bias=attn_bias, is_causal=causal)
        scores = query @ key.transpose(-2, -1) / 2
        seen = torch.ones(5, 5, dtype=torch.bool).tril() if causal else bias[0, 0] > -torch.inf
        scores = scores + (0 if causal or attn_bias.dtype == torch.bool else bias)
        attention = scores.masked_fill(~seen, -torch.inf).softmax(-1).mean(1)
        multiples = attention * seen.sum(-1, keepdim=True)
        expected = torch.stack([image[seen].quantile(0.6) for image in multiples]).mean()
        found = _quantile_of_multiples(call, 0, 0.6)
        assert found.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"target_share": 0.0}, r"expected target_share above 0 and below 1, or None, got 0\.0"),
        ({"target_share": 1}, "expected target_share above 0 and below 1, or None, got 1"),
        ({"tau_quantile": 1.5}, r"expected tau_quantile above 0 and below 1, or None, got 1\.5"),
        ({"tau_quantile": float("nan")}, "expected tau_quantile above 0 and below 1, or None, got nan"),
        (
            {"target_share": 0.5, "weight": 0.0},
            r"expected a weight above 0 to begin with for target_share, got 0\.0",
        ),
    ],
)
def test_what_cannot_be_reached_is_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        DiversificationTerm(make_model(), **options)


def test_every_setting_of_the_loss_reaches_it(images):
    model = make_model()
    settings = AdlSettings(tau=1.3, blocks=(1,), patch_tokens_only=True, query_fraction=0.5)
    term = DiversificationTerm.of(model, settings)
    model(images)
    torch.manual_seed(0)
    value, _ = term.term(0)
    term.close()
    with tapadl.AttentionDiversificationLoss(
        model, tau=1.3, blocks=[1], patch_tokens_only=True, query_fraction=0.5
    ) as loss:
        model(images)
        torch.manual_seed(0)
        assert value == loss()
