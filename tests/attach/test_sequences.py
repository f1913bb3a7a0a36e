"""TAP and ADL on a model of sequences, through sites of one's own."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tapadl


class Attention(nn.Module):
    def __init__(self, dim, causal):
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)
        self.causal = causal

    def forward(self, tokens, padding_mask):
        query, key, value = self.qkv(tokens).unflatten(2, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        visible = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool)
        visible = visible.tril() if self.causal else visible
        if padding_mask is not None:
            visible = visible & ~padding_mask[:, None, None]
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=visible)
        return out.transpose(1, 2).flatten(2)


class Block(nn.Module):
    def __init__(self, dim, causal):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, causal)

    def forward(self, tokens, padding_mask=None):
        return tokens + self.attention(self.norm(tokens), padding_mask)


class Model(nn.Module):
    def __init__(self, causal=False):
        super().__init__()
        self.blocks = nn.ModuleList(Block(8, causal) for _ in range(2))

    def forward(self, tokens, padding_mask=None):
        for block in self.blocks:
            tokens = block(tokens, padding_mask=padding_mask)
        return tokens


def padding_of_block(args, kwargs):
    return args[1] if len(args) > 1 else kwargs.get("padding_mask")


def _sites(model, grid):
    return [
        tapadl.Site(block=b, attention=b.attention, norm=b.norm, num_prefix_tokens=1, grid=grid)
        for b in model.blocks
    ]


def _attached(causal=False, grid=None, **options):
    model = Model(causal).double()
    grid = grid or tapadl.SequenceGrid(causal=causal, padding=padding_of_block)
    return tapadl.attach_tap(model, sites=_sites(model, grid), **options)


def test_each_block_gets_a_module_of_sequences():
    tap = _attached(causal=True).blocks[1].tap
    assert (tap.ndim, tap.causal, tap.dim) == (1, True, 8)


@pytest.mark.parametrize("causal", [False, True])
def test_blocks_pool_what_the_attention_sees_and_leave_the_residual(causal):
    model = _attached(causal).eval()
    tokens = torch.randn(3, 10, 8, dtype=torch.float64)
    expected = tokens
    for block in model.blocks:
        pooled = block.tap(expected, (9,), 1)
        expected = expected + block.attention(F.layer_norm(pooled, (8,)), None)
    torch.testing.assert_close(model(tokens), expected)
    assert not torch.allclose(expected, tapadl.detach_tap(model)(tokens))


def test_any_length_goes_through_and_a_fixed_one_is_held_to():
    model = _attached().eval()
    for length in (1, 4, 30):
        assert model(torch.randn(2, 1 + length, 8).double()).shape == (2, 1 + length, 8)
    fixed = _attached(grid=(9,)).eval()
    fixed.load_state_dict(model.state_dict())
    tokens = torch.randn(2, 10, 8, dtype=torch.float64)
    assert torch.equal(fixed(tokens), model(tokens))
    with pytest.raises(ValueError, match=r"expected 10 tokens for a grid of 9 patches"):
        fixed(torch.randn(2, 12, 8).double())


@pytest.mark.parametrize("causal", [False, True])
def test_a_padded_batch_gives_what_each_sequence_gives_alone(causal):
    model = _attached(causal).eval()
    tokens = torch.randn(2, 12, 8, dtype=torch.float64)
    padding_mask = torch.arange(12).expand(2, -1) >= torch.tensor([[7], [12]])
    together = model(tokens, padding_mask)
    torch.testing.assert_close(together[:1, :7], model(tokens[:1, :7]))
    torch.testing.assert_close(together[1:], model(tokens[1:]))


def test_the_padding_of_one_call_is_forgotten_in_the_next():
    model = _attached().eval()
    tokens = torch.randn(2, 12, 8, dtype=torch.float64)
    expected = model(tokens)
    model(tokens, torch.arange(12).expand(2, -1) >= 7)
    assert torch.equal(model(tokens), expected)


def test_no_token_of_a_causal_model_depends_on_a_later_one():
    model = _attached(causal=True).eval()
    tokens = torch.randn(1, 10, 8, dtype=torch.float64, requires_grad=True)
    out = model(tokens)
    for i in range(10):
        (grad,) = torch.autograd.grad(out[:, i].sum(), tokens, retain_graph=True)
        assert not grad[:, i + 1 :].any()


def test_detach_restores_bits_keys_and_hooks():
    plain = Model().double()
    tokens = torch.randn(2, 10, 8, dtype=torch.float64)
    expected, keys = plain(tokens), list(plain.state_dict())
    model = tapadl.attach_tap(plain, sites=_sites(plain, tapadl.SequenceGrid(padding=padding_of_block)))
    model(tokens)
    tapadl.detach_tap(model)
    assert torch.equal(model(tokens), expected)
    assert list(model.state_dict()) == keys
    for block in model.blocks:
        assert not block._forward_pre_hooks
        assert not block._forward_pre_hooks_with_kwargs


def test_a_copy_keeps_its_own_padding():
    model = _attached().eval()
    twin = copy.deepcopy(model)
    tokens = torch.randn(2, 12, 8, dtype=torch.float64)
    padding_mask = torch.arange(12).expand(2, -1) >= 7
    assert torch.equal(twin(tokens, padding_mask), model(tokens, padding_mask))
    model.blocks[0].tap.before_block(model.blocks[0], (tokens, padding_mask), {})
    assert torch.equal(twin(tokens), model(tokens))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch 2.11
def test_compiles_into_one_graph_with_its_padding():
    model = _attached().eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    tokens = torch.randn(2, 12, 8, dtype=torch.float64)
    for first in (7, 5):
        padding_mask = torch.arange(12).expand(2, -1) >= first
        torch.testing.assert_close(compiled(tokens, padding_mask), model(tokens, padding_mask))


def test_gradient_checkpointing_gives_the_same_gradients():
    model = _attached()
    twin = copy.deepcopy(model)
    tokens = torch.randn(2, 12, 8, dtype=torch.float64)
    padding_mask = torch.arange(12).expand(2, -1) >= 7
    model(tokens, padding_mask).square().sum().backward()
    hidden = tokens
    for block in twin.blocks:
        hidden = torch.utils.checkpoint.checkpoint(
            block, hidden, padding_mask=padding_mask, use_reentrant=False
        )
    hidden.square().sum().backward()
    for (name, a), (_, b) in zip(model.named_parameters(), twin.named_parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)
    torch.testing.assert_close(dict(model.named_buffers()), dict(twin.named_buffers()))


def test_both_together_train_a_step():
    model = Model().double()
    sites = _sites(model, tapadl.SequenceGrid(padding=padding_of_block))
    tapadl.attach_tap(model, sites=sites, init="identity")
    with tapadl.AttentionDiversificationLoss(model, tau=0.5, sites=sites) as diversification:
        padding_mask = torch.arange(12).expand(2, -1) >= 7
        loss = model(torch.randn(2, 12, 8).double(), padding_mask).square().mean() + diversification()
        loss.backward()
    assert all(block.tap.gate.grad.any() for block in model.blocks)


def test_a_block_called_past_its_hooks_is_refused_where_padding_is_told():
    model = Model()
    tapadl.attach_tap(model, sites=_sites(model, tapadl.SequenceGrid(padding=padding_of_block)))
    tokens, mask = torch.randn(2, 7, 8), torch.zeros(2, 7, dtype=torch.bool)
    model(tokens, mask)
    with pytest.raises(RuntimeError, match=r"expected the block at blocks\.0 to be called as a module"):
        model.blocks[0].forward(tokens, mask)


def test_tokens_in_front_of_the_batch_are_refused():
    layer = nn.TransformerEncoderLayer(8, 2, norm_first=True)
    site = tapadl.Site(layer, layer.self_attn, layer.norm1, 0, tapadl.SequenceGrid())
    with pytest.raises(ValueError, match="attention with batch_first=False"):
        tapadl.attach_tap(layer, sites=[site])
