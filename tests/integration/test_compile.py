"""Gradient checkpointing under compilation: what works, and where dynamo stops."""

import copy

import pytest
import torch
import torch.nn.functional as F

import tapadl

pytestmark = [
    pytest.mark.slow,
    # torch looks at it itself where it compiles a block, and hides the warning, but not from a filter "error"
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("attached", [False, True])
def test_compiled_blocks_take_checkpointing_and_the_loss(model, images, labels, attached):
    plain = copy.deepcopy(model)
    with tapadl.AttentionDiversificationLoss(plain) as diversification:
        (F.cross_entropy(plain(images), labels) + diversification()).backward()
    model.set_grad_checkpointing(True)
    for block in model.blocks:
        block.compile(backend="aot_eager", fullgraph=True)
    if attached:
        tapadl.attach_diversification(model)
        F.cross_entropy(model(images), labels).backward()
    else:
        with tapadl.AttentionDiversificationLoss(model) as diversification:
            (F.cross_entropy(model(images), labels) + diversification()).backward()
    want = gradients(plain)
    assert gradients(model).keys() == want.keys()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, want[name], rtol=1e-3, atol=1e-5)


def test_a_whole_graph_with_checkpointing_is_refused_by_dynamo(model, images, labels):
    """Inside a checkpoint dynamo allows no side effect, and hearing is one; docs/training.md says so."""
    diversification = tapadl.AttentionDiversificationLoss(model)
    model.set_grad_checkpointing(True)

    def step(images):
        return F.cross_entropy(model(images), labels) + diversification()

    with pytest.raises(torch._dynamo.exc.Unsupported, match="side effect"):
        torch.compile(step, backend="aot_eager", fullgraph=True)(images)
