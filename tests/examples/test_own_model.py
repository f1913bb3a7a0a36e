import runpy
from pathlib import Path

import torch

import tapadl
from tapadl.ops.diversification import attention_diversification_from_map

EXAMPLE = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "own_model.py"))


def test_its_sites_are_where_the_model_attends():
    model = EXAMPLE["Classifier"]().eval()
    for block in model.blocks:
        torch.nn.init.normal_(block.attention.in_proj_weight, std=0.3)
    sites = EXAMPLE["sites_of"](model)
    tapadl.attach_tap(model, sites=sites)
    tokens, maps = [], []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda _block, inputs: tokens.append(inputs[0]))
    with tapadl.AttentionDiversificationLoss(model, sites=sites) as diversification:
        model(torch.randn(2, 1, 28, 28))
        layers = diversification.per_layer()
    for block, before in zip(model.blocks, tokens, strict=True):
        normed = torch.layer_norm(
            block.tap(before, (7, 7)), (64,), block.norm1.weight, block.norm1.bias, block.norm1.eps
        )
        maps.append(block.attention(normed, normed, normed, average_attn_weights=False)[1])
    want = [attention_diversification_from_map(attention) for attention in maps]
    assert max(want) > 0.1
    torch.testing.assert_close(layers, want)


def test_it_learns(capsys):
    assert EXAMPLE["main"](steps=60) > 0.3  # ten classes
    assert "TAP parameters: 4,912" in capsys.readouterr().out
