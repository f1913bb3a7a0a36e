"""Peak memory of looking at attention: the diagnostics against maps that are kept.

    python benchmarks/diagnostics.py           write benchmarks/results/diagnostics.json
    python benchmarks/diagnostics.py --quick   256 tokens, a check that this file runs

ViT-S/16 with random weights looks at one image of 1024 x 1024 pixels, 4096 patches and a class token, fused
attention on, under no_grad; comparing attention shows it two. Counted is what one call adds to the model and
the image, the forward of the model included; `model_bytes` is that forward alone. `maps_bytes` is what the
maps of all layers and heads would take, by arithmetic.
"""

import argparse
from pathlib import Path

import timm
import torch
from torch import nn

from measure import MEMORY_METHOD, Step, peak_memory, write_results
from tapadl.diagnostics import attention_rollout, compare_attention, measure_focus

RESULTS = Path(__file__).parent / "results" / "diagnostics.json"
MODEL = "vit_small_patch16_224"
PATCH = 16


def build_step(what: str, side: int) -> Step:
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(MODEL, img_size=side).eval().requires_grad_(False)
    clean, corrupted = torch.randn(2, 1, 3, side, side)
    steps = {
        "model": lambda: model(clean),
        "measure_focus": lambda: measure_focus(model, clean),
        "compare_attention": lambda: compare_attention(model, clean, corrupted),
        "attention_rollout": lambda: attention_rollout(model, clean),
    }
    return steps[what]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    side = 256 if parser.parse_args().quick else 1024
    torch.set_num_threads(1)
    model = timm.create_model(MODEL)
    tokens = (side // PATCH) ** 2 + 1
    heads = sum(block.attn.num_heads for block in model.blocks)
    alone = peak_memory(build_step, "model", side)
    rows = []
    for what in ("measure_focus", "compare_attention", "attention_rollout"):
        peak = peak_memory(build_step, what, side)
        rows.append(
            {
                "what": what,
                "tokens": tokens,
                "peak_bytes": peak,
                "model_bytes": alone,
                "maps_bytes": heads * tokens**2 * 4,
            }
        )
        print(f"{what:20} {peak / 2**20:8.0f} MiB, the model alone {alone / 2**20:.0f} MiB")
    if side == 1024:
        write_results(RESULTS, rows=rows, model=MODEL, memory=MEMORY_METHOD)


if __name__ == "__main__":
    main()
