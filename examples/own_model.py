"""TAP and ADL in a transformer of one's own: say where it attends, attach, train.

python examples/own_model.py
"""

import torch
import torch.nn.functional as F
from torch import nn

import tapadl
from tapadl.data.embedded import load_embedded


class Block(nn.Module):
    """A pre-norm block; an attention of one's own that calls scaled_dot_product_attention does as well."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, num_heads=4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (B, N, dim) to tokens of that shape."""
        normed = self.norm1(tokens)
        tokens = tokens + self.attention(normed, normed, normed, need_weights=False)[0]
        return tokens + self.mlp(self.norm2(tokens))


class Classifier(nn.Module):
    """Patches of 4 x 4, two blocks, the mean of the tokens."""

    def __init__(self, dim: int = 64, num_classes: int = 10) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, dim, kernel_size=4, stride=4)
        self.position = nn.Parameter(0.02 * torch.randn(1, 7 * 7, dim))
        self.blocks = nn.Sequential(Block(dim), Block(dim))
        self.head = nn.Linear(dim, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 1, 28, 28) to logits (B, num_classes)."""
        tokens = self.embed(images).flatten(2).transpose(1, 2) + self.position
        return self.head(self.blocks(tokens).mean(dim=1))


def sites_of(model: Classifier) -> list[tapadl.Site]:
    """Where the model attends: 7 x 7 patches, no class token."""
    return [
        tapadl.Site(block, attention=block.attention, norm=block.norm1, num_prefix_tokens=0, grid=(7, 7))
        for block in model.blocks
    ]


def main(steps: int = 300, batch_size: int = 50) -> float:
    """Train on the images inside the package; return the accuracy on the test images."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # so small a model gains nothing from more
    data = load_embedded()
    model = Classifier()
    sites = sites_of(model)
    tapadl.attach_tap(model, sites=sites)
    diversification = tapadl.AttentionDiversificationLoss(model, sites=sites)
    tapadl.describe(model, sites=sites)

    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(steps):
        chosen = torch.randint(len(data.train), (batch_size,))
        logits = model(data.train.images[chosen] / 127.5 - 1)
        loss = F.cross_entropy(logits, data.train.labels[chosen]) + diversification()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step:3d}  loss {loss.item():.3f}")

    diversification.close()
    model.eval()
    with torch.no_grad():
        correct = model(data.test.images / 127.5 - 1).argmax(dim=1) == data.test.labels
    print(f"accuracy on {len(correct):,} test images: {correct.float().mean():.1%}")
    return correct.float().mean().item()


if __name__ == "__main__":
    main()
