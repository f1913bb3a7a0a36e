import math

import pytest
import torch
from torch import nn

from tapadl.training.config import TrainingConfig
from tapadl.training.optimizer import build_optimizer, build_schedule


def rates(config, total_steps):
    optimizer = build_optimizer(nn.Linear(2, 2), config)
    schedule = build_schedule(optimizer, config, total_steps)
    found = []
    for step in range(total_steps):
        found.append(optimizer.param_groups[0]["lr"])
        schedule.step_update(step + 1)
    return found


def test_norms_and_biases_have_no_weight_decay():
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.LayerNorm(8), nn.Linear(8, 2)
    )
    groups = build_optimizer(model, TrainingConfig(weight_decay=0.1)).param_groups
    decayed = [p for group in groups if group["weight_decay"] == 0.1 for p in group["params"]]
    others = [p for group in groups if group["weight_decay"] == 0 for p in group["params"]]
    assert all(p.ndim > 1 for p in decayed)
    assert all(p.ndim == 1 for p in others)
    assert len(decayed) == 2
    assert len(others) == 6


def test_rate_rises_linearly_then_falls_along_a_cosine():
    found = rates(TrainingConfig(learning_rate=1.0, warmup_fraction=0.1), 100)
    assert found[:10] == pytest.approx([(1 + 10 * k) / 11 for k in [0.0]] + found[1:10])
    steps = torch.tensor(found[:10]).diff()
    assert steps.max() - steps.min() < 1e-6
    assert found[10] == 1.0
    assert found[10:] == pytest.approx([0.5 * (1 + math.cos(math.pi * k / 90)) for k in range(90)])


def test_without_warm_up_the_first_rate_is_the_full_one():
    assert rates(TrainingConfig(learning_rate=0.5, warmup_fraction=0), 4)[0] == 0.5


def test_one_step_is_enough_for_a_schedule():
    assert rates(TrainingConfig(learning_rate=0.5), 1) == [0.5]
