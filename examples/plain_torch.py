"""TAP and ADL in a plain loop of torch: two calls. The images are in the package; no download.

pip install .    # in a clone
python examples/plain_torch.py
"""

import timm
import torch
import torch.nn.functional as F

import tapadl
from tapadl.data.embedded import load_embedded


def main(steps: int = 200, batch_size: int = 50) -> float:
    """Train a small ViT of timm; return its accuracy on the test images."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # so small a model gains nothing from more
    data = load_embedded()
    model = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=28,
        patch_size=4,
        in_chans=1,
        embed_dim=64,
        depth=2,
        num_heads=4,
        num_classes=len(data.class_names),
    )
    tapadl.attach_tap(model)  # before the optimizer is built: it brings parameters
    diversification = tapadl.AttentionDiversificationLoss(model)

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for step in range(1, steps + 1):
        chosen = torch.randint(len(data.train), (batch_size,))
        logits = model(data.train.images[chosen] / 127.5 - 1)
        cross_entropy = F.cross_entropy(logits, data.train.labels[chosen])
        adl = diversification()  # after each forward
        optimizer.zero_grad()
        (cross_entropy + adl).backward()
        optimizer.step()
        schedule.step()
        if step % 40 == 0:
            print(f"step {step:3d}  cross entropy {cross_entropy.item():.3f}  ADL {adl.item():.3f}")

    model.eval()
    with torch.inference_mode():
        correct = model(data.test.images / 127.5 - 1).argmax(dim=1) == data.test.labels
    print(f"accuracy on {len(correct):,} test images: {correct.float().mean():.1%}")
    return correct.float().mean().item()


if __name__ == "__main__":
    main()
