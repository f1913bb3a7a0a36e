"""TAP, forward and backward, against the form of the official code: time and peak memory on a CPU.

    OMP_NUM_THREADS=1 python benchmarks/pooling.py            write benchmarks/results/pooling.json
    OMP_NUM_THREADS=1 python benchmarks/pooling.py --quick    one small shape, a check that this file runs

The official form is written here afresh from its description: an ordinary convolution on a channels-first map
predicts the weights, every branch unfolds its 3 x 3 neighbours (nine times the memory) and averages them, the
branches are stacked and summed with the weights. Both modules share their parameters, and nothing is timed
before outputs and gradients agree with the official form in float64.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from measure import MEMORY_METHOD, Step, as_row, compare, peak_memory, write_results
from tapadl.nn import TokenAwareAveragePooling

RESULTS = Path(__file__).parent / "results" / "pooling.json"
NUM_BRANCHES = 4
TOLERANCE = 1e-4  # of the largest value, in float32


class Shape(NamedTuple):
    """Size of a batch of tokens."""

    batch: int
    dim: int
    rows: int
    cols: int


SHAPES = [Shape(8, 192, 14, 14), Shape(8, 384, 14, 14), Shape(2, 448, 64, 64)]
QUICK_SHAPES = [Shape(2, 64, 7, 9)]


class OfficialForm(nn.Module):
    """Every branch unfolded, averaged, stacked and weighed, on a channels-first map."""

    def __init__(self, dim: int, num_branches: int) -> None:
        super().__init__()
        self.num_branches = num_branches
        self.proj = nn.Sequential(
            nn.Conv2d(dim, num_branches, 3, padding=1, bias=False),
            nn.BatchNorm2d(num_branches),
            nn.Conv2d(num_branches, num_branches, 3, padding=1, bias=False),
        )

    def forward(self, tokens: torch.Tensor, grid_size: tuple[int, int]) -> torch.Tensor:
        """Pooled tokens (B, N, C)."""
        batch, _, dim = tokens.shape
        patch_map = tokens.transpose(1, 2).reshape(batch, dim, *grid_size)
        branch_weights = torch.softmax(self.proj(patch_map), dim=1)
        branches = [patch_map]
        for dilation in range(1, self.num_branches):
            neighbours = F.unfold(patch_map, 3, dilation=dilation, padding=dilation)
            branches.append(neighbours.reshape(batch, dim, 9, *grid_size).mean(2))
        pooled = (torch.stack(branches, dim=1) * branch_weights[:, :, None]).sum(1)
        return pooled.flatten(2).transpose(1, 2)


def build(
    form: str, shape: Shape, dtype: torch.dtype = torch.float32
) -> tuple[nn.Module, torch.Tensor, Step]:
    """A module, its input, and the step that runs it forward and backward; same numbers for every form."""
    generator = torch.Generator().manual_seed(0)
    size = (shape.batch, shape.rows * shape.cols, shape.dim)
    tokens = torch.randn(size, generator=generator).to(dtype).requires_grad_()
    grad = torch.randn(size, generator=generator).to(dtype)
    official = OfficialForm(shape.dim, NUM_BRANCHES)
    for parameter in official.parameters():
        nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5, generator=generator)
    module: nn.Module = official
    if form == "tapadl":
        module = TokenAwareAveragePooling(shape.dim, NUM_BRANCHES)
        module.dilation_predictor.load_state_dict(official.state_dict())
    module.to(dtype)

    def step() -> torch.Tensor:
        tokens.grad = None
        module.zero_grad()
        pooled: torch.Tensor = module(tokens, (shape.rows, shape.cols))
        pooled.backward(grad)
        return pooled.detach()

    return module, tokens, step


def build_step(form: str, shape: Shape) -> Step:
    """The step alone, for a fresh process."""
    return build(form, shape)[2]


def max_error(shape: Shape) -> float:
    """Largest difference of output and gradients from the official form in float64, over their maxima."""
    values = []
    for form, dtype in (("official", torch.float64), ("tapadl", torch.float32)):
        module, tokens, step = build(form, shape, dtype)
        values.append([step(), tokens.grad, *(parameter.grad for parameter in module.parameters())])
    return max(float((b - a).abs().max() / a.abs().max()) for a, b in zip(*values, strict=True))


def moving_the_bytes(shape: Shape) -> Step:
    """Copies as much as any form must move: tokens and output, then tokens, both gradients; 5 maps."""
    maps = [torch.randn(shape.batch, shape.rows * shape.cols, shape.dim) for _ in range(4)]
    half = shape.rows * shape.cols // 2

    def step() -> None:
        maps[1].copy_(maps[0])
        maps[3].copy_(maps[2])
        maps[1][:, :half].copy_(maps[0][:, :half])

    return step


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one small shape, two pairs, nothing written")
    parser.add_argument("--pairs", type=int, default=31, help="interleaved pairs a shape (default 31)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the results go")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    rows = []
    for shape in QUICK_SHAPES if arguments.quick else SHAPES:
        error = max_error(shape)
        if not error < TOLERANCE:
            raise SystemExit(f"{shape}: expected an error below {TOLERANCE}, got {error}; nothing was timed")
        ours = build_step("tapadl", shape)
        pairs = 2 if arguments.quick else arguments.pairs
        comparison = compare(build_step("official", shape), ours, pairs=pairs)
        floor = compare(ours, moving_the_bytes(shape), pairs=4 * pairs)
        peaks = {form: peak_memory(build_step, form, shape) for form in ("official", "tapadl")}
        row = as_row(
            comparison,
            shape=shape._asdict(),
            max_relative_error=error,
            times_the_bytes_that_must_move=floor.speedup,
            bytes_that_must_move_ms=floor.candidate_ms,
            peak_bytes=peaks,
            peak_ratio=round(peaks["tapadl"] / peaks["official"], 4),
        )
        rows.append(row)
        before, after = (peaks[form] / 2**20 for form in ("official", "tapadl"))
        print(
            f"{shape.batch} x {shape.dim} x {shape.rows} x {shape.cols}: {comparison.speedup} x faster "
            f"(quartiles {comparison.speedup_quartiles}; {comparison.baseline_ms} -> "
            f"{comparison.candidate_ms} ms), {floor.speedup} x the bytes that must move, "
            f"peak {before:.1f} -> {after:.1f} MiB ({row['peak_ratio']}), error {error:.1e}",
            flush=True,
        )
    if not arguments.quick:
        write_results(arguments.out, rows=rows, num_branches=NUM_BRANCHES, memory_method=MEMORY_METHOD)


if __name__ == "__main__":
    main()
