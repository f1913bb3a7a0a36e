import pytest
import timm
import torch
from torch import nn

import tapadl
from tapadl.diagnostics import head_mean_attention


def make_vit(**options) -> nn.Module:
    settings = {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 16,
        "depth": 3,
        "num_heads": 2,
        "num_classes": 5,
    }
    return timm.create_model("vit_tiny_patch16_224", **(settings | options))


def stored_maps(model: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """Head-averaged maps by plain formulas, from the input of every attention."""
    inputs = []
    handles = [
        block.attn.register_forward_pre_hook(lambda _module, given: inputs.append(given[0]))
        for block in model.blocks
    ]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    maps = []
    for block, tokens in zip(model.blocks, inputs, strict=True):
        attn = block.attn
        batch, num_tokens, _ = tokens.shape
        qkv = attn.qkv(tokens).reshape(batch, num_tokens, 3, attn.num_heads, attn.head_dim)
        query, key, _ = qkv.permute(2, 0, 3, 1, 4)
        maps.append((query @ key.mT * attn.scale).softmax(dim=-1).mean(dim=1).detach())
    return maps


@pytest.mark.parametrize("class_token", [True, False])
def test_maps_equal_those_computed_by_hand(class_token):
    pool = "token" if class_token else "avg"
    model = tapadl.attach_tap(make_vit(class_token=class_token, global_pool=pool)).double().eval()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)

    found = head_mean_attention(model, images)

    torch.testing.assert_close(found, stored_maps(model, images), atol=1e-12, rtol=1e-12)


def test_unfused_attention_gives_the_same_maps():
    model, images = make_vit().eval(), torch.randn(2, 3, 32, 32)
    fused = head_mean_attention(model, images)
    for block in model.blocks:
        block.attn.fused_attn = False

    torch.testing.assert_close(head_mean_attention(model, images), fused)


def test_looking_changes_nothing_in_the_model():
    model = tapadl.attach_tap(make_vit()).train()
    model.blocks[1].eval()
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}

    maps = head_mean_attention(model, torch.randn(2, 3, 32, 32))

    assert not any(attention.requires_grad for attention in maps)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_only_the_chosen_blocks_are_looked_at():
    model, images = make_vit().eval(), torch.randn(1, 3, 32, 32)

    chosen = head_mean_attention(model, images, blocks=[0, -1])

    everything = head_mean_attention(model, images)
    assert len(chosen) == 2
    assert torch.equal(chosen[1], everything[2])


class MaskedAttention(nn.Module):
    """Self-attention with a mask, on tokens that are query, key and value at once."""

    def __init__(self, **options):
        super().__init__()
        self.options = options

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        heads = tokens.unflatten(-1, (2, -1)).transpose(1, 2)
        return nn.functional.scaled_dot_product_attention(heads, heads, heads, **self.options)


class OneSite(nn.Module):
    def __init__(self, attention: nn.Module):
        super().__init__()
        self.attention = attention

    def attention_sites(self):
        return [tapadl.Site(self, self.attention, nn.Identity(), 0, (1, 5))]

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.attention(tokens)


@pytest.mark.parametrize(
    "options",
    [
        {"is_causal": True},
        {"attn_mask": torch.ones(5, 5, dtype=torch.bool).tril(), "scale": 0.3},
        {"attn_mask": torch.arange(50.0).reshape(1, 2, 5, 5) / 20},
    ],
    ids=["causal", "boolean mask", "bias a head"],
)
def test_masks_and_biases_take_part(options):
    model, tokens = OneSite(MaskedAttention(**options)), torch.randn(3, 5, 8)
    identity = torch.eye(5).expand(3, 2, 5, 5)
    heads = tokens.unflatten(-1, (2, -1)).transpose(1, 2)
    # attention applied to the identity is the attention map itself
    expected = nn.functional.scaled_dot_product_attention(heads, heads, identity, **options).mean(dim=1)

    torch.testing.assert_close(head_mean_attention(model, tokens), [expected])


def test_a_site_without_attention_is_named():
    with pytest.raises(RuntimeError, match="OneSite to compute a softmax, got none"):
        head_mean_attention(OneSite(nn.Identity()), torch.randn(1, 5, 8))
