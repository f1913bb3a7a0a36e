"""Trainer of transformers, unchanged, against the loss added by hand."""

import copy

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

import tapadl

WEIGHT, LR = 0.7, 0.5


@pytest.fixture
def model():
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
    )
    vit = ViTForImageClassification(config)
    for name, parameter in vit.named_parameters():
        if "attention" in name and parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.6)
    return vit


@pytest.fixture
def data(images, labels):
    return [{"pixel_values": image, "labels": label} for image, label in zip(images, labels, strict=True)]


def train(model, data, folder, **settings):
    """One step of plain gradient descent on all images, in any order."""
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=1,
        learning_rate=LR,
        lr_scheduler_type="constant",
        optim="sgd",
        max_grad_norm=0.0,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        **settings,
    )
    Trainer(model=model, args=arguments, train_dataset=data).train()
    return model


def step_by_hand(model, images, labels, smoothing=0.0):
    with tapadl.AttentionDiversificationLoss(model.train()) as diversification:
        logits = model(images).logits
        loss = nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing)
        (loss + WEIGHT * diversification()).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= LR * parameter.grad
    return model


@pytest.mark.parametrize(
    "settings",
    [
        {"per_device_train_batch_size": 4},
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
        {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2},  # the second holds one image
        {"per_device_train_batch_size": 4, "activation_checkpointing": True},
    ],
    ids=str,
)
def test_trainer_takes_the_step_of_the_loss_by_hand(model, images, labels, data, tmp_path, settings):
    start = copy.deepcopy(model.state_dict())
    want = step_by_hand(copy.deepcopy(model), images, labels).state_dict()
    tapadl.attach_diversification(model, WEIGHT)
    got = train(model, data, tmp_path, **settings).state_dict()
    for name, tensor in got.items():
        torch.testing.assert_close(tensor, want[name], rtol=1e-4, atol=1e-6)
    plain = train(model_with(copy.deepcopy(model), start), data, tmp_path, **settings).state_dict()
    assert max((plain[name] - got[name]).abs().max() for name in got if "attention" in name) > 1e-4


def model_with(model, state):
    tapadl.detach_diversification(model).load_state_dict(state)
    return model


def test_label_smoothing_which_takes_the_loss_out_of_the_model(model, images, labels, data, tmp_path):
    settings = {"per_device_train_batch_size": 4, "label_smoothing_factor": 0.1}
    want = step_by_hand(copy.deepcopy(model), images, labels, smoothing=0.1).state_dict()
    other = copy.deepcopy(model)
    got = train(tapadl.attach_diversification(model, WEIGHT), data, tmp_path, **settings).state_dict()
    for name, tensor in got.items():
        torch.testing.assert_close(tensor, want[name], rtol=1e-4, atol=1e-6)
    settings |= {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    with pytest.raises(RuntimeError, match="under gradient accumulation tell attach_diversification"):
        train(tapadl.attach_diversification(other, WEIGHT), data, tmp_path, **settings)
