"""Every way a closed trainer goes is compared with the loss added by hand."""

import copy
import gc
import io
import math
import types
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import ViTConfig, ViTForImageClassification

import tapadl

LABELS = torch.tensor([0, 1])


def by_hand(model, images, weight, scale=1.0, **options):
    """Gradients of the loss with ADL added explicitly."""
    model = tapadl.detach_diversification(copy.deepcopy(model))
    with tapadl.AttentionDiversificationLoss(model, **options) as diversification:
        loss = F.cross_entropy(model(images), LABELS) + weight * diversification()
        (scale * loss).backward()
    return gradients(model)


def gradients(model):
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def assert_equal(mine, theirs):
    assert mine.keys() == theirs.keys()
    for name, gradient in mine.items():
        assert torch.equal(gradient, theirs[name]), name


@pytest.mark.parametrize("weight", [0.0, 0.7])
@pytest.mark.parametrize("options", [{}, {"blocks": [1], "patch_tokens_only": True, "impl": "reference"}])
def test_gradients_are_those_of_the_loss_added_by_hand(make_vit, images, weight, options):
    model = tapadl.attach_tap(make_vit())
    plain = by_hand(model, images, 0.0)
    want = by_hand(model, images, weight, tau=1.5, **options)
    assert tapadl.attach_diversification(model, weight, tau=1.5, **options) is model
    for _ in range(2):
        F.cross_entropy(model(images), LABELS).backward()
        got = gradients(model)
        assert_equal(got, want)
    changed = (got["blocks.1.attn.qkv.weight"] - plain["blocks.1.attn.qkv.weight"]).abs().max()
    assert changed > 1e-4 if weight else changed == 0


def test_outputs_stay_and_detaching_leaves_nothing(make_vit, images):
    model = make_vit()
    output, keys = model(images), list(model.state_dict())
    tapadl.attach_diversification(model)
    assert torch.equal(model(images), output)
    assert list(model.state_dict()) == keys
    assert tapadl.detach_diversification(model) is model
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    assert_equal(trained(model, images), by_hand(model, images, 0.0))


def trained(model, images):
    F.cross_entropy(model(images), LABELS).backward()
    return gradients(model)


class Returns(nn.Module):
    """A model that returns its logits in some form."""

    def __init__(self, vit, form):
        super().__init__()
        self.vit = vit
        self.form = form

    def forward(self, images):
        return self.form(self.vit(images))


@pytest.mark.parametrize(
    ("form", "logits_of"),
    [
        (lambda x: (x, x.detach(), None, 3), lambda o: o[0]),
        (lambda x: {"features": x * 2, "more": [x, "name"]}, lambda o: o["more"][0]),
        (lambda x: (x, x), lambda o: (o[0] + o[1]) / 2),
        (lambda x: {"loss": x.detach().mean(), "logits": x}, lambda o: o["logits"]),
    ],
)
def test_outputs_of_any_form_carry_the_loss_once(make_vit, images, form, logits_of):
    model = Returns(make_vit(), form)
    want = by_hand(model.vit, images, 1.0)
    output = tapadl.attach_diversification(model)(images)
    assert type(output) is type(form(torch.zeros(1)))
    F.cross_entropy(logits_of(output), LABELS).backward()
    got = gradients(model.vit)
    assert got.keys() == want.keys()
    for name, gradient in got.items():
        torch.testing.assert_close(gradient, want[name])


def test_an_output_may_be_changed_in_place(make_vit, images):
    model = tapadl.attach_diversification(make_vit())
    want = trained(model, images)
    logits = model(images)
    F.cross_entropy(logits.mul_(1.0), LABELS).backward()
    assert_equal(gradients(model), want)


def test_an_output_without_a_gradient_is_named(make_vit, images):
    model = tapadl.attach_diversification(Returns(make_vit(), lambda x: types.SimpleNamespace(logits=x)))
    with pytest.raises(RuntimeError, match=r"expected Returns to return tensors .* got SimpleNamespace"):
        model(images)


def make_hf_vit():
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        num_labels=5,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation="sdpa",
    )
    model = ViTForImageClassification(config)
    for name, parameter in model.named_parameters():
        if "attention" in name and parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.6)
    return model.train()


def hf_sites(model):
    layers = [m for m in model.modules() if type(m).__name__ == "ViTLayer"]
    return [
        tapadl.Site(layer, layer.attention, layer.layernorm_before, num_prefix_tokens=1, grid=(4, 4))
        for layer in layers
    ]


def hf_by_hand(model, images, labels, scale=1.0):
    model = tapadl.detach_diversification(copy.deepcopy(model))
    with tapadl.AttentionDiversificationLoss(model, sites=hf_sites(model), tau=1.2) as diversification:
        loss = model(images, labels=labels).loss + 0.5 * diversification()
        (scale * loss).backward()
    return gradients(model)


def test_a_model_that_returns_its_loss_carries_it_there_through_scaling_and_accumulation():
    model = make_hf_vit()
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 2, 3])
    want = hf_by_hand(model, images[:2], labels[:2], 1024.0)
    value = model(images[:2], labels=labels[:2]).loss
    tapadl.attach_diversification(model, 0.5, tau=1.2, sites=hf_sites(model))
    output = model(images[:2], labels=labels[:2])
    assert torch.equal(output.loss, value)
    (1024.0 * output.loss).backward()
    assert_equal(gradients(model), want)

    for half in (slice(0, 2), slice(2, 4)):
        (model(images[half], labels=labels[half]).loss / 2).backward()
    got, joint = gradients(model), hf_by_hand(model, images, labels)
    for name, gradient in got.items():
        torch.testing.assert_close(gradient, joint[name], rtol=1e-4, atol=1e-6)


def test_a_loss_divided_by_all_items_of_the_step_takes_its_share():
    """What Trainer asks of models under accumulation: unequal micro-batches give the joint gradient."""
    model = make_hf_vit()
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 2, 3])
    joint = hf_by_hand(model, images, labels)
    tapadl.attach_diversification(model, 0.5, tau=1.2, sites=hf_sites(model))
    for part in (slice(0, 1), slice(1, 4)):
        model(images[part], labels=labels[part], num_items_in_batch=torch.tensor(4)).loss.backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, joint[name], rtol=1e-4, atol=1e-6)
    with pytest.raises(RuntimeError, match="expected labels beside num_items_in_batch"):
        model(images, labels, num_items_in_batch=4)


def test_a_returned_loss_that_the_trainer_does_not_use_is_an_error():
    model = make_hf_vit()
    tapadl.attach_diversification(model, sites=hf_sites(model))
    output = model(torch.randn(2, 3, 32, 32), labels=LABELS)
    with pytest.raises(RuntimeError, match="got one through its other outputs alone"):
        F.cross_entropy(output.logits, LABELS).backward()


def test_accumulation_is_refused_until_its_scale_is_told(make_vit, images):
    model = make_vit()
    first, second = images, torch.flip(images, dims=[0, 2])
    tapadl.attach_diversification(model)
    (F.cross_entropy(model(first), LABELS) / 2).backward()
    with pytest.raises(RuntimeError, match=r"VisionTransformer holds gradients .* loss_scale=1 / steps"):
        (F.cross_entropy(model(second), LABELS) / 2).backward()
    model.zero_grad()
    tapadl.attach_diversification(tapadl.detach_diversification(model), loss_scale=0.5)
    for half in (first, second):
        (F.cross_entropy(model(half), LABELS) / 2).backward()
    got = gradients(model)
    want_first, want_second = by_hand(model, first, 1.0, 0.5), by_hand(model, second, 1.0, 0.5)
    for name, gradient in got.items():
        torch.testing.assert_close(gradient, want_first[name] + want_second[name])


def test_gradients_set_to_zero_or_zeroed_late_are_no_accumulation(make_vit, images):
    model = tapadl.attach_diversification(make_vit())
    want = trained(model, images)
    loss = F.cross_entropy(model(images), LABELS)
    loss.backward()
    loss = F.cross_entropy(model(images), LABELS)
    model.zero_grad(set_to_none=False)
    loss.backward()
    assert_equal(gradients(model), want)


def test_two_backwards_through_one_forward_are_refused(make_vit, images):
    logits = tapadl.attach_diversification(make_vit())(images)
    F.cross_entropy(logits, LABELS).backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="holds gradients of an earlier backward"):
        logits.square().mean().backward()


def test_two_forwards_before_one_backward_count_each(make_vit, images):
    model = make_vit()
    other = torch.flip(images, dims=[0, 2])
    want_first, want_second = by_hand(model, images, 1.0), by_hand(model, other, 1.0)
    tapadl.attach_diversification(model)
    (F.cross_entropy(model(images), LABELS) + F.cross_entropy(model(other), LABELS)).backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, want_first[name] + want_second[name])


def test_a_scale_told_by_a_function_is_asked_in_every_forward(make_vit, images):
    model = make_vit()
    scales = [8.0, 4.0]
    want = [by_hand(model, images, 1.0, scale) for scale in scales]
    tapadl.attach_diversification(model, loss_scale=lambda: scales[0])
    while scales:
        (scales[0] * F.cross_entropy(model(images), LABELS)).backward()
        assert_equal(gradients(model), want.pop(0))
        scales.pop(0)


@pytest.mark.parametrize("told", [True, False])
def test_float16_needs_the_scale_wherever_autocast_stands(make_vit, images, told):
    model = make_vit()
    tapadl.attach_diversification(model, loss_scale=1.0 if told else None)
    original = model.forward

    def forward(images):
        with torch.autocast("cpu", dtype=torch.float16):
            return original(images)

    model.forward = forward  # what accelerate does; the hook runs outside of it
    if told:
        assert model(images).isfinite().all()
    else:
        with pytest.raises(RuntimeError, match="attention in float16 is trained with a scaled loss"):
            model(images)


def test_nothing_is_added_without_gradients_or_in_evaluation(make_vit, images):
    model = make_vit()
    plain = by_hand(model, images, 0.0)
    tapadl.attach_diversification(model)
    with torch.no_grad():
        assert model(images).grad_fn is None
    assert_equal(trained(model.eval(), images), plain)
    assert model.forward_features(images).requires_grad


def test_frozen_attention_has_nothing_to_learn(make_vit, images):
    model = tapadl.attach_diversification(make_vit())
    model.requires_grad_(False).head.requires_grad_(True)
    got = trained(model, images)
    assert set(got) == {"head.weight", "head.bias"}


def test_a_forward_past_the_module_is_an_error(make_vit, images):
    model = tapadl.attach_diversification(make_vit())
    with pytest.raises(RuntimeError, match="attach the loss to the module that the trainer calls"):
        model.forward_features(images)
    with pytest.raises(RuntimeError, match="expected VisionTransformer to be called as a module"):
        model.forward(images)
    assert_equal(trained(model, images), by_hand(model, images, 1.0))


def test_replicas_of_data_parallel_are_refused(make_vit, images):
    replica = tapadl.attach_diversification(make_vit())._replicate_for_data_parallel()
    with pytest.raises(RuntimeError, match=r"use torch.nn.parallel.DistributedDataParallel"):
        replica(images)


@pytest.mark.parametrize("tap", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients_and_keeps_nothing(make_vit, images, tap):
    model = make_vit()
    if tap:
        tapadl.attach_tap(model)
    want = by_hand(model, images, 1.0)
    tapadl.attach_diversification(model)
    model.set_grad_checkpointing(True)
    heard = []
    model.blocks[0].attn.q_norm.register_forward_hook(lambda _m, _i, query: heard.append(weakref.ref(query)))
    for _ in range(2):
        assert_equal(trained(model, images), want)
    gc.collect()
    assert len(heard) == 4
    assert not any(reference() is not None for reference in heard)


def test_a_forward_without_a_backward_leaves_nothing_alive(make_vit, images):
    model = tapadl.attach_diversification(make_vit())
    heard = []
    model.blocks[0].attn.q_norm.register_forward_hook(lambda _m, _i, query: heard.append(weakref.ref(query)))
    model(images)
    gc.collect()
    assert heard[0]() is None


@pytest.mark.parametrize("pickled", [False, True])
def test_copies_are_free_of_it(make_vit, images, pickled):
    model = make_vit()
    plain = by_hand(model, images, 0.0)
    tapadl.attach_diversification(model, loss_scale=lambda: 1.0)
    if pickled:
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        other = torch.load(buffer, weights_only=False)
    else:
        other = copy.deepcopy(model)
    assert_equal(trained(other, images), plain)
    tapadl.attach_diversification(other)
    assert_equal(trained(other, images), by_hand(model, images, 1.0))
    tapadl.detach_diversification(other)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in other.modules())
    assert_equal(trained(model, images), by_hand(model, images, 1.0))


def test_attaching_again_changes_nothing_or_is_refused(make_vit, images):
    model = make_vit()
    tapadl.attach_diversification(model, 0.5)
    tapadl.attach_diversification(model, 0.5)
    assert_equal(trained(model, images), by_hand(model, images, 0.5))
    with pytest.raises(ValueError, match=r"VisionTransformer has the loss attached .* call tapadl.detach"):
        tapadl.attach_diversification(model, 1.0)
    wrapper = Returns(model, lambda x: x)
    with pytest.raises(ValueError, match=r"asked for .* on Returns"):
        tapadl.attach_diversification(wrapper, 0.5)
    tapadl.attach_diversification(tapadl.detach_diversification(wrapper), 0.5)
    with pytest.raises(ValueError, match=r"Returns has the loss attached .* on VisionTransformer"):
        tapadl.attach_diversification(model, 0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": -1.0}, "weight to be a finite number of at least 0, got -1.0"),
        ({"weight": float("nan")}, "weight to be a finite number of at least 0, got nan"),
        ({"weight": "x"}, "weight to be a finite number of at least 0, got x"),
        (
            {"loss_scale": "x"},
            "loss_scale to be a finite number above 0 or a function that gives one, got 'x'",
        ),
        ({"tau": -1.0}, "tau to be a number of at least 0"),
        ({"blocks": [7]}, "indices of the 3 sites"),
    ],
)
def test_wrong_arguments_leave_the_model_as_it_was(make_vit, options, message):
    model = make_vit()
    with pytest.raises(ValueError, match=message):
        tapadl.attach_diversification(model, **options)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("scale", [math.nan, math.inf, -1.0, 0, True])
def test_a_scale_that_is_none_is_refused_also_when_a_function_gives_it(make_vit, images, scale):
    model = make_vit()
    with pytest.raises(ValueError, match="loss_scale to be a finite number above 0"):
        tapadl.attach_diversification(model, loss_scale=scale)
    tapadl.attach_diversification(model, loss_scale=lambda: scale)
    with pytest.raises(RuntimeError, match="expected loss_scale to give a finite number above 0, got"):
        model.train()(images)


def test_a_loss_returned_twice_carries_the_loss_once(make_vit, images):
    def twice(logits):
        loss = logits.logsumexp(1).mean()
        return {"loss": loss, "parts": {"ce": loss}}

    plain, attached = Returns(make_vit(), twice), Returns(make_vit(), twice)
    with tapadl.AttentionDiversificationLoss(plain) as diversification:
        (plain.train()(images)["loss"] + diversification()).backward()
    tapadl.attach_diversification(attached)
    attached.train()(images)["loss"].backward()
    for (name, left), right in zip(plain.named_parameters(), attached.parameters(), strict=True):
        assert torch.equal(left.grad, right.grad), name


def test_a_loss_of_each_image_is_refused(make_vit, images):
    model = Returns(make_vit(), lambda logits: {"loss": logits.logsumexp(1)})
    tapadl.attach_diversification(model)
    with pytest.raises(RuntimeError, match=r"to be one number, got .*; return its mean"):
        model.train()(images)


def test_what_is_no_model_is_refused():
    with pytest.raises(ValueError, match=r"expected a model \(a torch.nn.Module\), got list"):
        tapadl.attach_diversification([])


# torch looks at it itself where it compiles a hook, and hides the warning, but not from a filter "error".
LOOKS_AT_GRAD = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


@LOOKS_AT_GRAD
@pytest.mark.slow
@pytest.mark.parametrize("step_is_compiled", [False, True])
def test_compiles_without_a_graph_break(make_vit, images, step_is_compiled):
    model = tapadl.attach_tap(make_vit())
    want = by_hand(model, images, 0.7)
    tapadl.attach_diversification(model, 0.7, loss_scale=1.0)

    def step(images):
        return F.cross_entropy(model(images), LABELS)

    if step_is_compiled:
        torch.compile(step, backend="aot_eager", fullgraph=True)(images).backward()
    else:
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        F.cross_entropy(compiled(images), LABELS).backward()
    got = gradients(model)
    for name, gradient in got.items():
        torch.testing.assert_close(gradient, want[name], rtol=1e-3, atol=1e-5)


@LOOKS_AT_GRAD
@pytest.mark.slow
def test_compiled_without_a_scale_breaks_the_graph_and_sees_accumulation_as_ever(make_vit, images):
    model = make_vit()
    want = by_hand(model, images, 1.0)
    tapadl.attach_diversification(model)

    def step(images):
        return F.cross_entropy(model(images), LABELS)

    compiled = torch.compile(step, backend="aot_eager")
    compiled(images).backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, want[name], rtol=1e-3, atol=1e-5)
    compiled(images).backward()
    with pytest.raises(RuntimeError, match="holds gradients of an earlier backward"):
        compiled(images).backward()


@pytest.mark.slow
def test_one_graph_without_a_scale_is_refused(make_vit, images):
    model = tapadl.attach_diversification(make_vit())
    step = torch.compile(lambda x: model(x).square().mean(), backend="aot_eager", fullgraph=True)
    with pytest.raises(RuntimeError, match="accumulation cannot be seen from a compiled graph"):
        step(images)


def test_a_model_that_ignores_the_number_of_all_items_carries_the_loss_as_it_is():
    """Losses of several labels an image take the number and do not divide by it."""
    model = make_hf_vit()
    model.config.problem_type = "multi_label_classification"
    images, labels = torch.randn(2, 3, 32, 32), torch.rand(2, 5).round()
    want = hf_by_hand(model, images, labels)
    tapadl.attach_diversification(model, 0.5, tau=1.2, sites=hf_sites(model))
    model(images, labels=labels, num_items_in_batch=torch.tensor(40)).loss.backward()
    assert_equal(gradients(model), want)


@pytest.mark.parametrize("divides", [True, False])
@pytest.mark.parametrize("number", ["tensor", "value", "int"])
def test_the_number_of_all_items_is_noticed_however_it_is_used(make_vit, images, divides, number):
    class Wrapped(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, images, labels, num_items_in_batch):
            logits = self.model(images)
            loss = F.cross_entropy(logits, labels, reduction="sum" if divides else "mean")
            if divides:
                moved = torch.as_tensor(num_items_in_batch).to(loss.device)
                loss = loss / (moved if number == "tensor" else moved.item())
            return {"loss": loss, "logits": logits}

    model = make_vit().bfloat16()
    plain = gradients_of(Wrapped(model), images.bfloat16(), 0.0)
    found = gradients_of(Wrapped(model), images.bfloat16(), 1.0, 8 if number == "int" else torch.tensor(8))
    alone = gradients_of(Wrapped(model), images.bfloat16(), 1.0, torch.tensor(len(LABELS)))
    share = len(LABELS) / 8 if divides else 1.0
    # ADL's part of the gradient, beside that of a number that is the batch itself
    scale = share if divides else 1.0
    for name in plain:
        own, whole = found[name] - plain[name] * scale, alone[name] - plain[name]
        torch.testing.assert_close(own.norm(), share * whole.norm(), rtol=0.15, atol=1e-3)


def gradients_of(model, images, weight, number=None):
    tapadl.attach_diversification(model, weight)
    number = torch.tensor(len(LABELS)) if number is None else number
    loss = model(images, labels=LABELS, num_items_in_batch=number)["loss"]
    assert loss.dtype == torch.bfloat16
    loss.backward()
    tapadl.detach_diversification(model)
    return gradients(model)


@pytest.mark.parametrize("upcast", [False, True])
def test_float16_autocast_is_noticed_where_the_softmax_is_taken_in_float32(images, upcast):
    class Upcast(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.project = nn.LayerNorm(8), nn.Linear(8, 8)

        def forward(self, tokens):
            heads = self.project(self.norm(tokens)).unflatten(2, (2, 4)).transpose(1, 2)
            scores = heads @ heads.mT
            weights = scores.float().softmax(-1) if upcast else scores.softmax(-1, dtype=torch.float32)
            return tokens + (weights.to(heads) @ heads).transpose(1, 2).flatten(2)

    with torch.device("meta"):
        model = Upcast()
    site = tapadl.Site(model, model, model.norm, 0, (12,), head_axis=1)
    tapadl.attach_diversification(model, sites=[site])
    model.to_empty(device="cpu").requires_grad_()  # where it is trained, after attaching
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_()
    tokens = torch.randn(2, 12, 8)
    with (
        torch.autocast("cpu", dtype=torch.float16),
        pytest.raises(RuntimeError, match="attention in float16 is trained with a scaled loss"),
    ):
        model(tokens)
    assert model(tokens).requires_grad


def test_hooks_that_come_after_unpickling_are_called_as_they_are(make_vit, images, monkeypatch):
    buffer = io.BytesIO()
    torch.save(tapadl.attach_diversification(make_vit()), buffer)
    for detach in (False, True):
        buffer.seek(0)
        with monkeypatch.context() as patch:
            patch.setattr(RemovableHandle, "next_id", 0)  # as in another process
            loaded = torch.load(buffer, weights_only=False)
            if detach:
                tapadl.detach_diversification(loaded)
            for _ in range(12):
                for module in loaded.modules():
                    module.register_forward_pre_hook(lambda _module, _inputs: None)
                    module.register_forward_hook(lambda _module, _inputs, _output: None)
        assert loaded(images).requires_grad


def test_a_model_nobody_holds_is_freed(make_vit, images):
    model = tapadl.attach_diversification(make_vit())
    F.cross_entropy(model(images), LABELS).backward()
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None
