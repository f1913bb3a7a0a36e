import copy
import dataclasses
import math

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.utils import ModelEmaV3
from torch import nn

import tapadl
from tapadl.ops.diversification import attention_diversification_from_map


def maps_of(model, images, run=None):
    """Attention maps recorded without fused attention, by hooks on the dropout behind the softmax."""
    maps = []
    for block in model.blocks:
        block.attn.fused_attn = False
    handles = [
        block.attn.attn_drop.register_forward_pre_hook(lambda _m, a: maps.append(a[0]))
        for block in model.blocks
    ]
    (run or model)(images)
    for handle in handles:
        handle.remove()
    for block in model.blocks:
        block.attn.fused_attn = True
    return maps


def expected_loss(model, images, first=0, tau=2.0):
    losses = []
    for attention in maps_of(model, images):
        attention = attention[:, :, first:, first:]
        losses.append(
            attention_diversification_from_map(attention / attention.sum(-1, keepdim=True), tau=tau)
        )
    return torch.stack(losses).mean()


@pytest.mark.parametrize("tau", [1.0, 1.2])
@pytest.mark.parametrize(
    "options", [{}, {"class_token": False, "global_pool": "avg"}, {"reg_tokens": 4}, {"qk_norm": True}]
)
def test_loss_and_gradient_equal_those_of_stored_maps(make_vit, images, options, tau):
    model = make_vit(**options).double()
    images = images.double()
    want = expected_loss(model, images, tau=tau)
    want_gradients = torch.autograd.grad(want, list(model.parameters()), allow_unused=True)
    with tapadl.AttentionDiversificationLoss(model, tau=tau) as diversification:
        model(images)
        got = diversification()
    assert got > 0
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
    got_gradients = torch.autograd.grad(got, list(model.parameters()), allow_unused=True)
    for mine, theirs in zip(got_gradients, want_gradients, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-10)


def test_attention_that_is_not_fused_is_heard_too(make_vit, images):
    model = make_vit().double()
    with tapadl.AttentionDiversificationLoss(model) as diversification:
        model(images.double())
        fused = diversification()
        for block in model.blocks:
            block.attn.fused_attn = False
        model(images.double())
        torch.testing.assert_close(diversification(), fused, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("fused", [True, False])
def test_patch_tokens_only_is_the_attention_among_patches(make_vit, images, fused):
    model = make_vit(reg_tokens=2).double()
    want = expected_loss(model, images.double(), first=3)
    for block in model.blocks:
        block.attn.fused_attn = fused
    with tapadl.AttentionDiversificationLoss(model, patch_tokens_only=True) as diversification:
        model(images.double())
        torch.testing.assert_close(diversification(), want, rtol=1e-10, atol=1e-12)


def test_mean_over_layers_is_the_mean_of_per_layer(make_vit, images):
    model = make_vit()
    with tapadl.AttentionDiversificationLoss(model) as diversification:
        model(images)
        layers = diversification.per_layer()
        model(images)
        torch.testing.assert_close(diversification(), torch.stack(layers).mean())
    assert len(layers) == 3
    with tapadl.AttentionDiversificationLoss(model, blocks=[1]) as diversification:
        model(images)
        torch.testing.assert_close(diversification(), layers[1])


def test_masks_and_causal_attention_reach_the_loss(make_vit, images):
    model = make_vit(class_token=False, global_pool="avg").double()
    mask = torch.rand(24, 24) > 0.3
    mask.fill_diagonal_(True)
    causal = torch.ones(24, 24, dtype=torch.bool).tril()
    for options, seen in (({"attn_mask": mask}, mask), ({"is_causal": True}, causal)):
        maps = maps_of(model, images.double(), run=lambda x, o=options: model(x, **o))
        losses = [attention_diversification_from_map(attention, mask=seen) for attention in maps]
        want = torch.stack(losses).mean()
        with tapadl.AttentionDiversificationLoss(model) as diversification:
            model(images.double(), **options)
            torch.testing.assert_close(diversification(), want, rtol=1e-10, atol=1e-12)


def test_loss_before_attention_dropout(make_vit, images):
    model = make_vit(attn_drop_rate=0.5).double()
    want = expected_loss(copy.deepcopy(model).eval(), images.double())
    with tapadl.AttentionDiversificationLoss(model, blocks=[0]) as diversification:
        model.train()(images.double())
        first = diversification()
    with tapadl.AttentionDiversificationLoss(model.eval()) as diversification:
        model(images.double())
        layers = diversification.per_layer()
    torch.testing.assert_close(first, layers[0])
    torch.testing.assert_close(torch.stack(layers).mean(), want, rtol=1e-10, atol=1e-12)


def test_a_second_call_without_a_new_forward_is_an_error(make_vit, images):
    model = make_vit()
    with tapadl.AttentionDiversificationLoss(model) as diversification:
        with pytest.raises(
            RuntimeError, match=r"expected a forward of VisionTransformer with gradients enabled"
        ):
            diversification()
        model(images)
        diversification()
        with pytest.raises(RuntimeError, match=r"before each call of the loss, got none"):
            diversification()


def test_a_new_forward_replaces_the_previous_one(make_vit, images):
    model = make_vit()
    with tapadl.AttentionDiversificationLoss(model) as diversification:
        model(images)
        want = diversification()
        for run in (model, model.forward_features, model.forward_intermediates):
            model(torch.randn_like(images))
            model.forward_features(torch.randn_like(images))
            run(images)
            assert torch.equal(diversification(), want)


def test_a_forward_that_failed_leaves_nothing_behind(make_vit, images):
    model = make_vit()
    with tapadl.AttentionDiversificationLoss(model) as diversification:
        model(images)
        want = diversification()
        failing = model.blocks[1].attn.proj.register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(images)
        failing.remove()
        assert torch._C._len_torch_function_stack() == 0
        model(images)
        assert torch.equal(diversification(), want)


def test_nothing_is_heard_without_gradients(make_vit, images):
    model = make_vit()
    with tapadl.AttentionDiversificationLoss(model) as diversification:
        with torch.no_grad():
            model(images)
        with pytest.raises(RuntimeError, match="under no_grad"):
            diversification()
        model(images)
        with torch.no_grad():
            model(torch.randn_like(images))  # an evaluation in between does not replace it
        heard = diversification()
        model(images)
        assert torch.equal(heard, diversification())


def test_a_site_that_was_not_reached_is_named(make_vit, images):
    model = make_vit()
    with tapadl.AttentionDiversificationLoss(model) as diversification:
        model.forward_intermediates(images, indices=[0], stop_early=True)
        with pytest.raises(
            RuntimeError,
            match=r"VisionTransformer did not run through the attention at blocks.1",
        ):
            diversification()


class ThreeAxes(nn.Module):
    """Attention whose softmax has no axis of heads."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8)

    def forward(self, tokens):
        normed = self.norm(tokens)
        return tokens + (normed @ normed.mT).softmax(-1) @ normed


def test_attention_of_another_shape_is_named_with_what_is_expected():
    model = ThreeAxes()
    site = tapadl.Site(model, model, model.norm, 0, (2, 3))
    with tapadl.AttentionDiversificationLoss(model, sites=[site]) as diversification:
        model(torch.randn(2, 6, 8))
        with pytest.raises(RuntimeError, match=r"ThreeAxes at site 0 .* \(B, H, N, M\), got neither"):
            diversification()


def test_shared_attention_counts_twice(make_vit, images):
    model = make_vit()
    model.blocks[1].attn = model.blocks[0].attn
    site = tapadl.attach.site.find_sites(model)[0]
    with tapadl.AttentionDiversificationLoss(model, sites=[site]) as diversification:
        model(images)
        assert len(diversification.per_layer()) == 2


def test_close_takes_every_hook_off(make_vit, images):
    model = make_vit()
    diversification = tapadl.AttentionDiversificationLoss(model)
    model(images)
    diversification.close()
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    with pytest.raises(RuntimeError, match="the loss is closed"):
        diversification()


def test_an_interrupt_inside_an_attention_leaves_the_loss_in_order(make_vit, images):
    def interrupt(*_):
        raise KeyboardInterrupt

    model = make_vit()
    diversification = tapadl.AttentionDiversificationLoss(model)
    model(images)
    want = diversification()
    hook = model.blocks[1].attn.proj.register_forward_pre_hook(interrupt)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            model(images)
    hook.remove()
    (images @ images.mT).softmax(-1)  # not of this model
    model(images)
    model(images)
    assert torch.equal(diversification(), want)
    assert torch._C._len_torch_function_stack() == 0
    hook = model.blocks[1].attn.proj.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        model(images)
    diversification.close()
    assert torch._C._len_torch_function_stack() == 0


def test_a_softmax_with_named_arguments_is_heard(make_vit, images):
    model = make_vit()
    for block in model.blocks:
        block.attn.fused_attn = False
    loss = tapadl.AttentionDiversificationLoss(model)
    model(images)
    expected = loss()

    def named(self, dim):
        return torch.softmax(input=self, dim=dim)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "softmax", named)
        model(images)
    torch.testing.assert_close(loss(), expected)


def test_a_softmax_over_another_axis_is_not_a_map(make_vit, images):
    model = make_vit()
    with tapadl.AttentionDiversificationLoss(model, blocks=[0]) as diversification:
        model.blocks[0].attn.q_norm.register_forward_pre_hook(lambda _m, a: (a[0].softmax(1) * 0 + a[0],))
        model(images)
        assert len(diversification.per_layer()) == 1


def test_query_that_sees_prefix_tokens_alone_counts_as_zero(make_vit, images):
    model = make_vit(reg_tokens=2, depth=1)
    model.blocks[0].attn.fused_attn = False
    with torch.no_grad():
        model.blocks[0].attn.qkv.weight.mul_(300)
    with tapadl.AttentionDiversificationLoss(model, patch_tokens_only=True) as diversification:
        model(images)
        loss = diversification()
        loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_forward_that_calls_neither_model_nor_patch_embedding_replaces_the_last(make_vit, images):
    model = make_vit()
    sites = [dataclasses.replace(site, grid=(4, 6)) for site in tapadl.attach.site.find_sites(model)]
    with tapadl.AttentionDiversificationLoss(model, sites=sites) as diversification:
        for _ in range(3):
            model.forward_features(images)
        assert len(diversification.per_layer()) == 3


def test_shared_blocks_are_one_site_that_counts_at_every_call(make_vit, images):
    model = make_vit()
    model.blocks[1] = model.blocks[0]
    tapadl.attach_tap(model)
    assert len(model.blocks[0].norm1._forward_pre_hooks) == 1
    with tapadl.AttentionDiversificationLoss(model) as diversification:
        model(images)
        assert len(diversification.per_layer()) == 3


def test_sites_of_a_wrapper_that_offers_them_are_not_found_twice(make_vit, images, capsys):
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.vit = make_vit()

        def attention_sites(self):
            return tapadl.attach.timm.sites(self.vit)

        def forward(self, images):
            return self.vit(images)

    model = tapadl.attach_tap(Wrapper())
    assert [len(block.norm1._forward_pre_hooks) for block in model.vit.blocks] == [1, 1, 1]
    tapadl.describe(model)
    assert "Wrapper: 3 attention sites" in capsys.readouterr().out


def test_two_losses_listen_side_by_side(make_vit, images):
    model = make_vit()
    with (
        tapadl.AttentionDiversificationLoss(model) as one,
        tapadl.AttentionDiversificationLoss(model, tau=1.0) as two,
    ):
        model(images)
        first, second = one(), two()
    with tapadl.AttentionDiversificationLoss(model, tau=1.0) as alone:
        model(images)
        assert torch.equal(alone(), second)
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    "copy_model", [copy.deepcopy, lambda model: ModelEmaV3(model).module], ids=["deepcopy", "ema"]
)
def test_copies_do_not_listen(make_vit, images, copy_model):
    model = make_vit()
    with tapadl.AttentionDiversificationLoss(model) as diversification:
        model(images)
        want = diversification()
        model(images)
        other = copy_model(model)
        other(torch.randn_like(images))
        assert torch.equal(diversification(), want)
        other(images)
        with pytest.raises(RuntimeError, match="got none"):
            diversification()
        with tapadl.AttentionDiversificationLoss(other) as own:
            other(images)
            assert torch.equal(own(), want)


def test_outputs_and_keys_of_the_model_do_not_change(make_vit, images):
    model = make_vit()
    output, keys = model(images), list(model.state_dict())
    with tapadl.AttentionDiversificationLoss(model):
        assert torch.equal(model(images), output)
        assert list(model.state_dict()) == keys


@pytest.mark.parametrize("tap", [False, True])
def test_gradient_checkpointing_gives_the_same_loss_and_gradients(make_vit, images, tap):
    def run(checkpointing):
        model = make_vit().double()
        if tap:
            tapadl.attach_tap(model)
        model.set_grad_checkpointing(checkpointing)
        diversification = tapadl.AttentionDiversificationLoss(model)
        for _ in range(2):
            output = model(images.double())
            loss = output.square().mean() + diversification()
            model.zero_grad()
            loss.backward()
            # Recomputed blocks must neither count as a forward nor leave tensors behind.
            with pytest.raises(RuntimeError, match="got none"):
                diversification()
        return loss, [p.grad for p in model.parameters()]

    (got, got_gradients), (want, want_gradients) = run(True), run(False)
    torch.testing.assert_close(got, want)
    for mine, theirs in zip(got_gradients, want_gradients, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_a_float32_loss_close_to_the_full_one(make_vit, images, dtype):
    model = make_vit()
    with tapadl.AttentionDiversificationLoss(model) as diversification:
        model(images)
        want = diversification()
        with torch.autocast("cpu", dtype=dtype):
            model(images)
            got = diversification()
        assert got.dtype == torch.float32
        # The threshold is a jump: rounding to half precision may move the loss by up to 0.02.
        assert abs(got - want) < 0.03
        got.backward()


def test_captured_tensors_are_released_by_the_call(make_vit, images):
    model = make_vit()
    with tapadl.AttentionDiversificationLoss(model) as diversification:
        model(images)
        assert sum(map(len, diversification._capture._heard)) == 3
        diversification()
        assert sum(map(len, diversification._capture._heard)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("tap", [False, True])
def test_whole_training_step_compiles_without_a_graph_break(make_vit, images, tap):
    model = make_vit()
    if tap:
        tapadl.attach_tap(model)
    diversification = tapadl.AttentionDiversificationLoss(model)

    def step(images):
        return F.cross_entropy(model(images), torch.tensor([0, 1])) + diversification()

    want = step(images)
    want_gradients = torch.autograd.grad(want, list(model.parameters()))
    got = torch.compile(step, backend="aot_eager", fullgraph=True)(images)
    got_gradients = torch.autograd.grad(got, list(model.parameters()))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    for mine, theirs in zip(got_gradients, want_gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_compiled_model_with_the_loss_outside_the_graph(make_vit, images):
    model = tapadl.attach_tap(make_vit()).eval()
    diversification = tapadl.AttentionDiversificationLoss(model)
    model(images)
    want = diversification()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for _ in range(2):
        compiled(images)
        torch.testing.assert_close(diversification(), want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau": -1.0}, "tau to be a number of at least 0, got -1.0"),
        ({"tau": None}, "tau to be a number of at least 0, got None"),
        ({"blocks": [0.5]}, r"blocks to be a list of whole numbers, .* got \[0.5\]"),
        ({"sites": ["x"]}, r"sites to hold tapadl.Site, got \['str'\]"),
        ({"tau": math.nan}, "tau to be a number of at least 0, got nan"),
        ({"impl": "fast"}, "expected impl to be one of auto, .*got 'fast'"),
        ({"blocks": [7]}, "indices of the 3 sites"),
    ],
)
def test_wrong_options_are_named(make_vit, options, message):
    with pytest.raises(ValueError, match=message):
        tapadl.AttentionDiversificationLoss(make_vit(), **options)


def test_attention_that_is_not_one_softmax_is_refused():
    model = timm.create_model("vit_tiny_patch16_224", depth=2, num_heads=2, embed_dim=32, attn_layer="diff")
    with pytest.raises(
        ValueError, match=r"ADL has no meaning at blocks.0: it is the difference of two softmaxes"
    ):
        tapadl.AttentionDiversificationLoss(model)


def test_nan_in_the_images_is_nan_in_the_loss(make_vit, images):
    model = make_vit()
    images[0, 0, 0, 0] = math.nan
    with tapadl.AttentionDiversificationLoss(model) as diversification:
        model(images)
        assert diversification().isnan()


def test_batch_of_one_has_a_loss(make_vit, images):
    model = make_vit()
    with tapadl.AttentionDiversificationLoss(model) as diversification:
        model(images[:1])
        loss = diversification()
        assert loss > 0
        loss.backward()
    assert model.blocks[0].attn.qkv.weight.grad.abs().max() > 0


@pytest.mark.parametrize("fused", [True, False])
def test_a_fraction_of_the_queries_is_drawn_anew_in_each_call(make_vit, images, fused):
    model = make_vit()
    for block in model.blocks:
        block.attn.fused_attn = fused
    with tapadl.AttentionDiversificationLoss(model, query_fraction=0.5) as diversification:
        losses = set()
        for _ in range(4):
            model(images)
            losses.add(diversification().item())
    assert len(losses) == 4
    with tapadl.AttentionDiversificationLoss(model) as diversification:
        model(images)
        assert abs(diversification().item() - sum(losses) / 4) < 0.2


def test_a_fraction_of_no_queries_is_refused(make_vit):
    with pytest.raises(ValueError, match="query_fraction above 0 and at most 1, got 0"):
        tapadl.AttentionDiversificationLoss(make_vit(), query_fraction=0)


def test_a_fraction_that_is_all_queries_is_the_whole_loss_where_some_are_padding():
    """Of attention that keeps its map: as many queries as keys are taken for the tokens of the keys."""
    model = Masked()
    site = tapadl.Site(model, model, model.norm, 0, (12,), head_axis=1)
    tokens = torch.randn(2, 12, 8)
    with tapadl.AttentionDiversificationLoss(model, tau=1.0, sites=[site]) as diversification:
        model(tokens)
        whole = diversification().item()
    with tapadl.AttentionDiversificationLoss(
        model, tau=1.0, sites=[site], query_fraction=0.99
    ) as diversification:
        for _ in range(4):
            model(tokens)
            assert diversification().item() == pytest.approx(whole, rel=1e-6)


class Masked(nn.Module):
    """Two heads; the last six of twelve tokens are padding."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8)

    def forward(self, tokens):
        heads = 4 * self.norm(tokens).unflatten(2, (2, 4)).transpose(1, 2)
        scores = (heads @ heads.mT).masked_fill(torch.arange(12) >= 6, -torch.inf)
        return tokens + (scores.softmax(-1) @ heads).transpose(1, 2).flatten(2)


class HeadsFirst(nn.Module):
    """Heads in front of the batch, as many as images; each image has its own padding."""

    def __init__(self, mask, heads_first):
        super().__init__()
        self.norm, self.mask, self.heads_first = nn.LayerNorm(8), mask, heads_first

    def forward(self, tokens):
        heads = 4 * self.norm(tokens).unflatten(2, (2, 4)).transpose(1, 2)  # (B, H, N, D)
        if self.heads_first:
            heads = heads.transpose(0, 1)
        mask = self.mask[None, :, None] if self.heads_first else self.mask[:, None, None]
        mixed = F.scaled_dot_product_attention(heads, heads, heads, attn_mask=mask)
        mixed = mixed.transpose(0, 1) if self.heads_first else mixed
        return tokens + mixed.transpose(1, 2).flatten(2)


def test_a_mask_moves_with_the_heads():
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[1, 5:] = False
    tokens, losses = torch.randn(2, 12, 8), []
    for heads_first in (False, True):
        model = HeadsFirst(mask, heads_first)
        site = tapadl.Site(model, model, model.norm, 0, (12,), head_axis=0 if heads_first else 1)
        with tapadl.AttentionDiversificationLoss(model, tau=1.0, sites=[site]) as diversification:
            model(tokens)
            losses.append(diversification().item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


class Grouped(nn.Module):
    """Two heads for each key, a bias over the keys, and a prefix token."""

    def __init__(self, bias, *, repeated):
        super().__init__()
        self.norm, self.repeated = nn.LayerNorm(16), repeated
        self.register_buffer("bias", bias)

    def forward(self, tokens):
        queries = 3 * self.norm(tokens).unflatten(2, (4, 4)).transpose(1, 2)
        keys = queries[:, :2].flip(-1)
        if self.repeated:
            keys = keys.repeat_interleave(2, dim=1)
        mixed = F.scaled_dot_product_attention(
            queries, keys, keys, attn_mask=self.bias, enable_gqa=not self.repeated
        )
        return tokens + mixed.transpose(1, 2).flatten(2)


@pytest.mark.parametrize("shape", [(13, 13), (2, 1, 1, 13), (4, 13, 1), (1, 4, 13, 13)])
def test_patches_alone_keep_their_bias_and_grouped_heads_their_keys(shape):
    torch.manual_seed(0)
    bias, tokens = torch.randn(shape), torch.randn(2, 13, 16)
    losses = []
    for repeated in (True, False):
        model = Grouped(bias, repeated=repeated)
        site = tapadl.Site(model, model, model.norm, 1, (12,), head_axis=1)
        with tapadl.AttentionDiversificationLoss(
            model, tau=1.1, sites=[site], patch_tokens_only=True
        ) as diversification:
            model(tokens)
            losses.append(diversification())
    queries = 3 * model.norm(tokens).unflatten(2, (4, 4)).transpose(1, 2)
    keys = queries[:, :2].flip(-1).repeat_interleave(2, dim=1)
    scores = (queries @ keys.mT / 2 + bias)[:, :, 1:, 1:]
    want = attention_diversification_from_map(scores.softmax(-1), tau=1.1)
    for loss in losses:
        torch.testing.assert_close(loss, want)
    with tapadl.AttentionDiversificationLoss(model, tau=1.1, sites=[site]) as diversification:
        model(tokens)
        whole = (queries @ keys.mT / 2 + bias).softmax(-1)
        torch.testing.assert_close(diversification(), attention_diversification_from_map(whole, tau=1.1))


class Causal(nn.Module):
    """Attention that keeps its map and sees what came before."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8)

    def forward(self, tokens):
        heads = 4 * self.norm(tokens).unflatten(2, (2, 4)).transpose(1, 2)
        scores = (heads @ heads.mT).masked_fill(~torch.ones(12, 12).tril().bool(), -torch.inf)
        self.map = scores.softmax(-1)
        return tokens + (self.map @ heads).transpose(1, 2).flatten(2)


def test_a_fraction_of_the_queries_of_a_causal_map_is_measured_by_their_own_keys():
    model = Causal()
    site = tapadl.Site(model, model, model.norm, 0, (12,), head_axis=1)
    with tapadl.AttentionDiversificationLoss(
        model, tau=1.2, sites=[site], query_fraction=0.5
    ) as diversification:
        model(torch.randn(2, 12, 8))
        torch.manual_seed(3)
        loss = diversification()
    torch.manual_seed(3)
    drawn = torch.randperm(12)[:6].sort().values
    seen = torch.ones(1, 1, 12, 12).tril().bool()
    want = attention_diversification_from_map(model.map[:, :, drawn], tau=1.2, mask=seen[:, :, drawn])
    torch.testing.assert_close(loss, want)
