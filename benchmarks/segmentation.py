"""A training step of segmentation on one image of 1024 x 1024: memory and time against stored maps.

    OMP_NUM_THREADS=1 python benchmarks/segmentation.py            write benchmarks/results/segmentation.json
    OMP_NUM_THREADS=1 python benchmarks/segmentation.py --quick    a small image, a check that this file runs

The model is FAN-B-Hybrid with TAP under SegFormer's head, 19 classes, with ADL of all blocks: 4,096 tokens a
block. "stored" is the same model whose attention computes its map and keeps a clone of it for the loss, as
the released code does; all else is shared. It does not fit at full depth, so that both forms are measured
with one and with two blocks, which gives the bytes of a block. Nothing is timed before the loss, ADL and the
gradients of both forms agree in float64 on a small image.

A step is forward, cross entropy of the pixels + ADL, and backward, without an optimizer. Weights and their
gradients are there before the step, so that its peak does not count them; they are stated beside it.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import nn

import tapadl
from measure import MEMORY_METHOD, Step, as_row, compare, peak_memory, write_results
from models import LARGE, TAU, OfficialAttention, official_diversification
from tapadl.models import build_segmenter
from tapadl.tasks.segmentation import pixel_cross_entropy

RESULTS = Path(__file__).parent / "results" / "segmentation.json"
SIDE, FULL_DEPTH, NUM_CLASSES = 1024, 16, 19
TOLERANCE = 1e-8  # of the largest value, in float64


class Setup:
    """A segmenter in one form, with an image and its mask.

    Args:
        form: "tapadl", "checkpointed", which is that with blocks computed twice, or "stored".
        depth: Blocks of the backbone.
        side: Of the square image in pixels.
        dtype: Of all.
    """

    def __init__(self, form: str, depth: int, side: int, dtype: torch.dtype = torch.float32) -> None:
        torch.manual_seed(0)
        # both convolutional stages, the last block, and the patches behind the class attention
        indices = (0, 1, depth + 1, depth + 2)
        self.model = build_segmenter(
            LARGE, NUM_CLASSES, out_indices=indices, depths=(depth,), head_dropout=0.0
        )
        kept: list[torch.Tensor] = []
        self.diversification: Any = lambda: official_diversification(kept)
        for site in self.model.backbone.attention_sites():
            # queries share a direction: attention focuses, and ADL has something to do
            for name in ("q", "kv", "qkv"):
                if hasattr(site.attention, name):
                    linear = getattr(site.attention, name)
                    nn.init.normal_(linear.weight, std=4 * linear.in_features**-0.5)
                    nn.init.normal_(linear.bias, std=1.5 if name.startswith("q") else 0.02)
            if form == "stored":
                site.block.attn = OfficialAttention(site.attention, kept)
        if form != "stored":
            self.diversification = tapadl.AttentionDiversificationLoss(self.model, tau=TAU)
        self.model.set_grad_checkpointing(form == "checkpointed")
        self.model.to(dtype).train()
        generator = torch.Generator().manual_seed(1)
        self.image = torch.randn(1, 3, side, side, generator=generator).to(dtype)
        self.mask = torch.randint(0, NUM_CLASSES, (1, side, side), generator=generator)

    def step(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross entropy and ADL; the gradients are left in the model."""
        self.model.zero_grad(set_to_none=False)
        loss = pixel_cross_entropy(self.model(self.image), self.mask)
        diversification = self.diversification()
        (loss + diversification).backward()
        return loss.detach(), diversification.detach()


def make_step(form: str, depth: int, side: int) -> Step:
    """The step alone, for a fresh process."""
    return Setup(form, depth, side).step


def max_error() -> float:
    """Largest difference of the forms in float64, over the largest value; of gradients, their norms."""
    values = []
    for form in ("stored", "tapadl"):
        setup = Setup(form, 2, 128, torch.float64)
        loss, diversification = setup.step()
        if not diversification > 0.01:
            raise SystemExit(f"expected ADL to have something to do, got {diversification}")
        norms = sorted(float(p.grad.norm()) for p in setup.model.parameters() if p.grad is not None)
        values.append([loss, diversification, torch.tensor(norms)])
    return max(float((b - a).abs().max() / a.abs().max()) for a, b in zip(*values, strict=True))


def measure_memory(side: int, full_depth: int) -> dict[str, Any]:
    """Bytes at the peak of a step."""
    depths = [("stored", 1), ("stored", 2), ("tapadl", 1), ("tapadl", 2)]
    depths += [("tapadl", full_depth), ("checkpointed", full_depth)]
    bytes_of = {}
    for form, depth in depths:
        count = peak_memory(make_step, form, depth, side)
        bytes_of[f"{form}_{depth}_blocks"] = count
        print(f"{form}, {depth} blocks: {count / 2**30:.2f} GiB", flush=True)
    per_block = {
        form: bytes_of[f"{form}_2_blocks"] - bytes_of[f"{form}_1_blocks"] for form in ("stored", "tapadl")
    }
    parameters = sum(p.numel() for p in Setup("tapadl", full_depth, 32).model.parameters())
    return {
        "bytes": bytes_of,
        "bytes_per_block": per_block,
        "bytes_of_weights_and_gradients": 8 * parameters,
        "stored_at_full_depth_by_arithmetic": bytes_of["stored_2_blocks"]
        + (full_depth - 2) * per_block["stored"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a small image, two blocks, nothing written")
    parser.add_argument("--pairs", type=int, default=5, help="interleaved pairs (default 5)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the results go")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    error = max_error()
    if not error < TOLERANCE:
        raise SystemExit(f"expected an error below {TOLERANCE}, got {error}; nothing was timed")
    side, pairs, full_depth = (64, 1, 3) if arguments.quick else (SIDE, arguments.pairs, FULL_DEPTH)
    memory = measure_memory(side, full_depth)
    baseline, candidate = (Setup(form, 2, side) for form in ("stored", "tapadl"))
    comparison = compare(baseline.step, candidate.step, pairs=pairs, warmup=1)
    print(
        f"a step with 2 blocks: {comparison.speedup} x faster (quartiles {comparison.speedup_quartiles}; "
        f"{comparison.baseline_ms} -> {comparison.candidate_ms} ms)",
        flush=True,
    )
    row = as_row(comparison, model=LARGE, side=side, blocks=2, max_relative_error=error)
    if not arguments.quick:
        write_results(arguments.out, rows=[row], memory=memory, memory_method=MEMORY_METHOD)


if __name__ == "__main__":
    main()
