"""LoRA through PEFT on a model with TAP: the loss hears through the wrappers, TAP is trained and saved."""

import copy

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model

import tapadl

CONFIG = {"target_modules": ["qkv"], "modules_to_save": ["dilation_predictor", "head"], "r": 2}


@pytest.fixture
def peft_model(model):
    wrapped = get_peft_model(model, LoraConfig(**CONFIG))
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:  # zero at first, and then the gradient of lora_A as well
            torch.nn.init.normal_(parameter, std=0.3)
    return wrapped


def gradients(model):
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("attached", [False, True])
def test_the_loss_trains_lora_and_tap_and_nothing_else(peft_model, images, labels, attached):
    F.cross_entropy(peft_model(images), labels).backward()
    plain = gradients(peft_model)
    if attached:
        tapadl.attach_diversification(peft_model)
        F.cross_entropy(peft_model(images), labels).backward()
    else:
        with tapadl.AttentionDiversificationLoss(peft_model) as diversification:
            (F.cross_entropy(peft_model(images), labels) + diversification()).backward()
    got = gradients(peft_model)
    kinds = ("lora_A", "lora_B", "modules_to_save.default")
    assert got.keys() == plain.keys()
    assert all(any(kind in name for kind in kinds) for name in got)
    for part in ("blocks.1.attn.qkv.lora_B", "blocks.0.tap.dilation_predictor.modules_to_save"):
        names = [name for name in got if part in name and name.endswith("weight")]
        assert names
        assert any((got[name] - plain[name]).abs().max() > 1e-5 for name in names)


def test_the_loss_is_that_of_the_merged_model(peft_model, images):
    with tapadl.AttentionDiversificationLoss(peft_model) as diversification:
        peft_model(images)
        got = diversification()
    merged = copy.deepcopy(peft_model).merge_and_unload()
    with tapadl.AttentionDiversificationLoss(merged) as diversification:
        merged(images)
        torch.testing.assert_close(got, diversification(), rtol=1e-4, atol=1e-6)
        assert got > 0


def test_saved_and_loaded_it_gives_the_same_output(model, images, labels, tmp_path):
    base = copy.deepcopy(model)
    peft_model = get_peft_model(model, LoraConfig(**CONFIG))
    tapadl.attach_diversification(peft_model)
    optimizer = torch.optim.SGD([p for p in peft_model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(2):
        F.cross_entropy(peft_model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    peft_model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path)
    assert torch.equal(loaded.eval()(images), peft_model.eval()(images))
    assert not torch.equal(loaded(images), base.eval()(images))


def test_a_copy_of_tap_that_would_never_run_is_refused(model):
    with pytest.raises(RuntimeError, match="for PEFT put dilation_predictor, not tap, into modules_to_save"):
        get_peft_model(model, LoraConfig(target_modules=["qkv"], modules_to_save=["tap"]))
