"""ADL, forward and backward, against stored maps as in the official code: time and peak memory on a CPU.

    OMP_NUM_THREADS=1 python benchmarks/diversification.py            write results/diversification.json
    OMP_NUM_THREADS=1 python benchmarks/diversification.py --quick    one small shape, a check that this runs

The official arithmetic is written here afresh from its description: every layer computes its map, keeps a
clone of it, and the loss is taken over the kept maps at the end (batch axis kept, mean over layers). Both
sides start from query and key. In the official model the maps serve the attention as well, which is why it
cannot be fused; what fused attention wins there is not counted here.

Nothing is timed before loss and gradients agree in float64 with the official form (one layer, at most 1,024
tokens). Time is also given as a multiple of the four matrix products that the chunked form needs, and peak
memory over the length of the sequence.
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from measure import MEMORY_METHOD, Step, as_row, compare, peak_memory, write_results
from tapadl.ops.diversification import attention_diversification

RESULTS = Path(__file__).parent / "results" / "diversification.json"
TAU = 2.0
TOLERANCE = 1e-9  # relative, in float64
PRODUCT_ROWS = 64


class Shape(NamedTuple):
    """Query and key of some layers."""

    layers: int
    batch: int
    heads: int
    tokens: int
    head_dim: int


class Case(NamedTuple):
    """A shape, what it stands for, and how many pairs are timed."""

    name: str
    shape: Shape
    pairs: int


CASES = [
    Case("1024 x 1024 pixels in patches of 16", Shape(4, 1, 8, 4096, 56), 5),
    Case("384 x 384 pixels in patches of 16", Shape(4, 4, 6, 577, 64), 11),
    Case("DeiT-Ti at 224 x 224 pixels", Shape(4, 16, 3, 197, 64), 31),
    Case("Swin-T windows of 7 x 7 tokens", Shape(4, 128, 3, 49, 32), 31),
]
QUICK_CASES = [Case("quick", Shape(2, 2, 3, 50, 8), 2)]
GROWTH = [196, 784, 1024, 2048, 4096, 8192, 16384]
QUICK_GROWTH = [49, 98]


def official(layers: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """The loss over stored maps."""
    kept = []
    for query, key in layers:
        attention = (query @ key.mT * query.shape[-1] ** -0.5).softmax(-1)
        kept.append(attention.clone())
    losses = []
    for attention in kept:
        rows = attention.mean(1)
        mean_row = rows.mean(1, keepdim=True)
        threshold = TAU / rows.shape[-1]
        rows = rows * (rows > threshold)
        mean_row = mean_row * (mean_row > threshold)
        losses.append(F.cosine_similarity(rows, mean_row, dim=-1).mean())
    return torch.stack(losses).mean()


def tapadl(layers: list[tuple[torch.Tensor, torch.Tensor]], impl: Any = "auto") -> torch.Tensor:
    """The loss without maps, or with the maps of the reference."""
    losses = [attention_diversification(query, key, tau=TAU, impl=impl) for query, key in layers]
    return torch.stack(losses).mean()


def reference(layers: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """The loss by the readable definition, under autograd."""
    return tapadl(layers, "reference")


FORMS = {"official": official, "tapadl": tapadl, "reference": reference}


def make_layers(shape: Shape, dtype: torch.dtype = torch.float32) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Random layers whose queries share a direction, so that attention focuses and the loss is not 0."""
    generator = torch.Generator().manual_seed(0)
    layers = []
    for _ in range(shape.layers):
        size = (shape.batch, shape.heads, shape.tokens, shape.head_dim)
        query, key = (torch.randn(size, generator=generator) for _ in range(2))
        query += 2 * torch.randn(*size[:2], 1, size[3], generator=generator)
        layers.append((query.to(dtype).requires_grad_(), key.to(dtype).requires_grad_()))
    return layers


def build_step(form: str, shape: Shape, dtype: torch.dtype = torch.float32) -> Step:
    """Forward and backward of one form; the step gives the loss and the gradients."""
    layers = make_layers(shape, dtype)
    leaves = [tensor for layer in layers for tensor in layer]

    def step() -> list[torch.Tensor]:
        for leaf in leaves:
            leaf.grad = None
        loss = FORMS[form](layers)
        loss.backward()
        return [loss.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]

    return step


def products_alone(shape: Shape) -> Step:
    """The four matrix products per layer, twice the scores and once each gradient, in blocks of rows."""
    layers = make_layers(shape)
    rows = min(PRODUCT_ROWS, shape.tokens)
    tile = torch.empty(shape.batch * shape.heads, rows, shape.tokens)
    grad_key_t = torch.empty(shape.batch * shape.heads, shape.head_dim, shape.tokens)

    @torch.no_grad()
    def step() -> None:
        for layer in layers:
            query, key = (tensor.flatten(0, 1) for tensor in layer)
            key_t = key.mT.contiguous()
            for start in range(0, shape.tokens, rows):
                block = query[:, start : start + rows]
                scores = tile[:, : block.shape[1]]
                for head in range(len(query)):
                    torch.mm(block[head], key_t[head], out=scores[head])
                    torch.mm(block[head], key_t[head], out=scores[head])
                    torch.mm(scores[head], key[head])
                    grad_key_t[head].addmm_(block[head].mT, scores[head])

    return step


def max_error(shape: Shape) -> float:
    """Largest relative difference of loss and gradients from the official form, in float64."""
    small = shape._replace(layers=1, tokens=min(shape.tokens, 1024))
    values = [build_step(form, small, torch.float64)() for form in ("official", "tapadl")]
    return max(float((b - a).norm() / a.norm()) for a, b in zip(*values, strict=True))  # type: ignore[call-overload]


def measure_case(case: Case) -> dict[str, Any]:
    """Error, times and peaks of one case."""
    shape = case.shape
    error = max_error(shape)
    if not error < TOLERANCE:
        raise SystemExit(f"{shape}: expected an error below {TOLERANCE}, got {error}; nothing was timed")
    ours, warmup = build_step("tapadl", shape), 1 if shape.tokens > 1024 else 3
    comparison = compare(build_step("official", shape), ours, pairs=case.pairs, warmup=warmup)
    against_reference = compare(build_step("reference", shape), ours, pairs=case.pairs, warmup=warmup)
    floor = compare(ours, products_alone(shape), pairs=case.pairs, warmup=warmup)
    peaks = {form: peak_memory(build_step, form, shape) for form in FORMS}
    row = as_row(
        comparison,
        case=case.name,
        shape=shape._asdict(),
        max_relative_error_float64=error,
        time_ratio=round(1 / comparison.speedup, 3),
        speedup_over_reference=against_reference.speedup,
        speedup_over_reference_quartiles=against_reference.speedup_quartiles,
        times_the_products_alone=floor.speedup,
        products_alone_ms=floor.candidate_ms,
        peak_bytes=peaks,
        peak_ratio=round(peaks["tapadl"] / peaks["official"], 4),
    )
    print(
        f"{case.name}: {comparison.speedup} x faster (quartiles {comparison.speedup_quartiles}; "
        f"{comparison.baseline_ms} -> {comparison.candidate_ms} ms), {against_reference.speedup} x the "
        f"reference, {floor.speedup} x the products alone, peak {peaks['official'] / 2**20:.1f} -> "
        f"{peaks['tapadl'] / 2**20:.1f} MiB (1/{1 / row['peak_ratio']:.0f}), error {error:.1e}",
        flush=True,
    )
    return row


def measure_growth(lengths: list[int]) -> dict[str, Any]:
    """Peak memory of one layer of 8 heads over the number of tokens, and the straight line through it."""
    peaks = {tokens: peak_memory(build_step, "tapadl", Shape(1, 1, 8, tokens, 56)) for tokens in lengths}
    tokens = torch.tensor(lengths, dtype=torch.float64)
    values = torch.tensor(list(peaks.values()), dtype=torch.float64)
    design = torch.stack((tokens, torch.ones_like(tokens)), dim=1)
    slope, intercept = torch.linalg.lstsq(design, values[:, None]).solution.flatten().tolist()
    deviation = (values - (slope * tokens + intercept)).abs().max() / values.max()
    print("peak MiB by tokens:", ", ".join(f"{length}: {peak / 2**20:.1f}" for length, peak in peaks.items()))
    print(f"line: {slope:.0f} bytes a token + {intercept / 2**20:.1f} MiB, off by at most {deviation:.1%}")
    return {
        "shape": {"layers": 1, "batch": 1, "heads": 8, "head_dim": 56},
        "peak_bytes_by_tokens": peaks,
        "line_bytes_per_token": round(slope),
        "line_intercept_bytes": round(intercept),
        "line_largest_deviation_of_peak": round(float(deviation), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one small shape, two pairs, nothing written")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the results go")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    rows = [measure_case(case) for case in (QUICK_CASES if arguments.quick else CASES)]
    growth = measure_growth(QUICK_GROWTH if arguments.quick else GROWTH)
    if not arguments.quick:
        write_results(arguments.out, rows=rows, growth=growth, tau=TAU, memory_method=MEMORY_METHOD)


if __name__ == "__main__":
    main()
