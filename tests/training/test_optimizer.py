import math

import pytest
import torch
from torch import nn

from tapadl.training.optimizer import build_optimizer, build_schedule
from tapadl.training.settings import OptimizerSettings, ScheduleSettings


def rates(total_steps, warmup_steps, lr=1.0, **settings):
    optimizer = build_optimizer(nn.Linear(2, 2), OptimizerSettings(lr=lr))
    schedule = build_schedule(
        optimizer, ScheduleSettings(**settings), total_steps=total_steps, warmup_steps=warmup_steps
    )
    found = []
    for step in range(total_steps):
        schedule.step_update(step)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_norms_and_biases_have_no_weight_decay():
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.LayerNorm(8), nn.Linear(8, 2)
    )
    groups = build_optimizer(model, OptimizerSettings(weight_decay=0.1)).param_groups
    decayed = [p for group in groups if group["weight_decay"] == 0.1 for p in group["params"]]
    others = [p for group in groups if group["weight_decay"] == 0 for p in group["params"]]
    assert all(p.ndim > 1 for p in decayed)
    assert all(p.ndim == 1 for p in others)
    assert len(decayed) == 2
    assert len(others) == 6


def test_settings_that_are_given_reach_the_optimizer_and_others_are_its_own():
    optimizer = build_optimizer(
        nn.Linear(2, 2), OptimizerSettings(name="adamw", lr=0.5, betas=(0.8, 0.9), eps=1e-3)
    )
    assert (optimizer.defaults["lr"], optimizer.defaults["betas"], optimizer.defaults["eps"]) == (
        0.5,
        (0.8, 0.9),
        1e-3,
    )
    assert build_optimizer(nn.Linear(2, 2), OptimizerSettings()).defaults["betas"] == (0.9, 0.999)


def test_layers_learn_more_slowly_the_farther_they_are_from_the_head():
    import timm

    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=3, num_classes=2)
    optimizer = build_optimizer(model, OptimizerSettings(lr=1.0, layer_decay=0.5))
    build_schedule(optimizer, ScheduleSettings(), total_steps=4, warmup_steps=0).step_update(0)
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    blocks = [rate[id(block.attn.qkv.weight)] for block in model.blocks]
    assert rate[id(model.head.weight)] == 1.0
    assert blocks == pytest.approx([0.125, 0.25, 0.5])


def segmenter():
    from tapadl.models import build_segmenter

    return build_segmenter("test_vit", 3, head_dim=8, depth=2)


def test_the_head_of_a_segmenter_learns_faster_from_the_warm_up_to_the_end():
    model = segmenter()
    optimizer = build_optimizer(model, OptimizerSettings(lr=1.0, head_lr=10.0))
    settings = ScheduleSettings(name="poly", warmup_lr=0.1, min_lr=0.0)
    schedule = build_schedule(optimizer, settings, total_steps=12, warmup_steps=3)
    heads = {id(p) for p in model.decode_head.parameters()}
    for step, rate in enumerate([0.1, 0.4, 0.7, *(1 - k / 9 for k in range(9))]):
        schedule.step_update(step)
        for group in optimizer.param_groups:
            factors = {10.0 if id(p) in heads else 1.0 for p in group["params"]}
            assert len(factors) == 1
            assert group["lr"] == pytest.approx(factors.pop() * rate)


def test_a_head_that_learns_faster_decays_as_it_would_and_nothing_is_left_out():
    model = segmenter()
    decay = {}
    for head_lr in (1.0, 10.0):
        groups = build_optimizer(model, OptimizerSettings(head_lr=head_lr, weight_decay=0.3)).param_groups
        decay[head_lr] = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert decay[10.0] == decay[1.0]
    assert len(decay[1.0]) == len(list(model.parameters()))
    of_name = {name: decay[10.0][id(p)] for name, p in model.named_parameters()}
    assert of_name["backbone.pos_embed"] == of_name["decode_head.linear_fuse.bn.weight"] == 0
    assert of_name["decode_head.linear_pred.weight"] == 0.3


def test_an_unknown_optimizer_and_an_argument_it_does_not_take_are_refused():
    with pytest.raises(ValueError, match=r"optimizer\.name to be one of timm's .*adamw.*got 'adamv'"):
        build_optimizer(nn.Linear(2, 2), OptimizerSettings(name="adamv"))
    with pytest.raises(ValueError, match=r"optimizer\.betas to be null for sgd, which has none"):
        build_optimizer(nn.Linear(2, 2), OptimizerSettings(name="sgd", betas=(0.9, 0.99)))


def test_optimizers_that_cannot_work_are_refused_in_a_sentence():
    with pytest.raises(ValueError, match=r"first derivatives as optimizer\.name, got adahessian"):
        build_optimizer(nn.Linear(2, 2), OptimizerSettings(name="adahessian"))
    with pytest.raises(ValueError, match=r"could not build the optimizer fusedadamw: \S"):
        build_optimizer(nn.Linear(2, 2), OptimizerSettings(name="fusedadamw"))


def test_rate_rises_linearly_then_falls_along_a_cosine():
    found = rates(100, 10, warmup_lr=0.1, min_lr=0.2)
    assert found[:10] == pytest.approx([0.1 + 0.09 * k for k in range(10)])
    assert found[10:] == pytest.approx(
        [0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * k / 90)) for k in range(90)]
    )


def test_poly_falls_linearly_and_constant_stays():
    assert rates(10, 2, name="poly", warmup_lr=0.0, min_lr=0.0) == pytest.approx(
        [0, 0.5, *(1 - k / 8 for k in range(8))]
    )
    assert rates(5, 2, name="constant", warmup_lr=0.0) == pytest.approx([0, 0.5, 1, 1, 1])


def test_without_warm_up_the_first_rate_is_the_full_one():
    assert rates(4, 0, lr=0.5)[0] == 0.5


def test_one_step_is_enough_for_a_schedule():
    assert rates(1, 0, lr=0.5) == [0.5]
    assert torch.isfinite(torch.tensor(rates(2, 1, name="poly"))).all()
