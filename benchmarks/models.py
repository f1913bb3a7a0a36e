"""FAN and RVT with TAP and ADL against the arithmetic of the released models: time and memory on a CPU.

    OMP_NUM_THREADS=1 python benchmarks/models.py            write benchmarks/results/models.json
    OMP_NUM_THREADS=1 python benchmarks/models.py --quick    one shallow model, a check that this file runs

The official arithmetic is written here afresh from its description, around the same parameters: every
attention computes its map, keeps a clone of it for the loss and multiplies it with the values; TAP unfolds
every branch (`OfficialForm` of pooling.py); ADL is taken over the kept maps at the end; FAN scales in its MLP
by a product of maps; the unbiased variance of the hybrid is computed; 1x1 convolutions are convolutions.
Everything else is shared. Nothing is timed before loss, logits and gradients of a training step agree in
float64. The batch is 16, because for smaller ones on one thread torch leaves its fast 1x1 convolution.

Attention is made to focus (queries share a direction), because ADL has nothing to do where it is uniform. A
training step is forward, cross entropy + ADL, and backward, without an optimizer. Memory is that of a
training step on one image of 1024 x 1024 pixels. The official form does not fit there at full depth; both
forms are measured with one and two blocks, which gives their bytes per block.
"""

import argparse
import copy
from math import isqrt
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import nn

import tapadl
from measure import MEMORY_METHOD, Step, as_row, compare, peak_memory, write_results
from pooling import OfficialForm
from tapadl.models.fan_blocks import ConvolvedMLP
from tapadl.models.fan_embedding import UnbiasedLayerNorm2d
from tapadl.models.grid import to_map, to_tokens
from tapadl.models.pointwise_conv import PointwiseConv

RESULTS = Path(__file__).parent / "results" / "models.json"
TOLERANCE = 1e-8  # of the largest value, in float64
MODELS = ("tap_fan_tiny_12_p16_224", "tap_fan_small_12_p4_hybrid", "tap_rvt_tiny")
LARGE = "tap_fan_base_16_p4_hybrid"
LARGE_SIDE = 1024
TAU = 2.0


class OfficialAttention(nn.Module):
    """The attention of a block of FAN or RVT with its map, of which a clone is kept."""

    def __init__(self, attention: nn.Module, kept: list[torch.Tensor]) -> None:
        super().__init__()
        self.attention = attention
        self.kept = kept

    def forward(self, tokens: torch.Tensor, *_grid: Any) -> torch.Tensor:
        """The attended tokens (B, N, C)."""
        query, key, value = (part.transpose(1, 2) for part in self._heads(tokens))
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(2, 3)
        attention = scores.softmax(dim=-1)
        self.kept.append(attention.clone())
        projected: torch.Tensor = self.attention.proj((attention @ value).transpose(1, 2).flatten(2))
        return projected

    def _heads(self, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        heads = (self.attention.num_heads, -1)
        if hasattr(self.attention, "qkv"):
            return self.attention.qkv(tokens).unflatten(2, (3, *heads)).unbind(2)
        key_and_value = self.attention.kv(tokens).unflatten(2, (2, *heads))
        return self.attention.q(tokens).unflatten(2, heads), *key_and_value.unbind(2)


class OfficialConvolvedMLP(nn.Module):
    """The MLP of FAN with the scale as a product of maps."""

    def __init__(self, mlp: ConvolvedMLP) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, tokens: torch.Tensor, grid_size: tuple[int, int]) -> torch.Tensor:
        """The tokens (B, N, C) after the MLP."""
        hidden, convs = self.mlp.fc1(tokens), self.mlp.dwconv
        convolved = convs.conv2(convs.bn(convs.act(convs.conv1(to_map(hidden, grid_size)))))
        mixed: torch.Tensor = self.mlp.fc2(hidden + self.mlp.gamma * to_tokens(convolved))
        return mixed


class OfficialUnbiasedNorm(nn.Module):
    """The norm of the ConvNeXt blocks with its variance computed."""

    def __init__(self, norm: UnbiasedLayerNorm2d) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, patch_map: torch.Tensor) -> torch.Tensor:
        """The normed map (B, C, H, W)."""
        variance, mean = torch.var_mean(patch_map, dim=1, keepdim=True)
        normed = (patch_map - mean) * torch.rsqrt(variance + self.norm.eps)
        return normed * self.norm.weight[:, None, None] + self.norm.bias[:, None, None]


class OfficialPoolingAndNorm(nn.Module):
    """TAP by unfolding, then the norm, for a square grid."""

    def __init__(self, norm: nn.Module, tap: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.pooling = OfficialForm(tap.dim, tap.num_branches)
        self.pooling.proj.load_state_dict(tap.dilation_predictor.proj.state_dict())

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """The pooled and normed tokens (B, N, C)."""
        side = isqrt(tokens.shape[1])
        normed: torch.Tensor = self.norm(self.pooling(tokens, (side, side)))
        return normed


def official_diversification(kept: list[torch.Tensor]) -> torch.Tensor:
    """ADL over the kept maps, which are let go."""
    losses = []
    for attention in kept:
        rows = attention.mean(1)
        mean_row = rows.mean(1, keepdim=True)
        threshold = TAU / rows.shape[-1]
        rows = rows * (rows > threshold)
        mean_row = mean_row * (mean_row > threshold)
        losses.append(F.cosine_similarity(rows, mean_row, dim=-1).mean())
    kept.clear()
    return torch.stack(losses).mean()


def make_model(name: str, **options: Any) -> nn.Module:
    """A model whose attention focuses; the same for every call."""
    torch.manual_seed(0)
    model = timm.create_model(name, **options)
    for site in model.attention_sites():
        for name in ("q", "kv", "qkv"):
            if hasattr(site.attention, name):
                linear = getattr(site.attention, name)
                nn.init.normal_(linear.weight, std=4 * linear.in_features**-0.5)
                nn.init.normal_(linear.bias, std=1.5 if name.startswith("q") else 0.02)
    return model


def in_official_arithmetic(model: nn.Module, kept: list[torch.Tensor]) -> nn.Module:
    """A copy of the model with the same parameters."""
    official = copy.deepcopy(model)
    for site in official.attention_sites():
        tap = site.block.tap
        tapadl.detach_tap(site.block)
        site.block.norm1 = OfficialPoolingAndNorm(site.norm, tap)
        site.block.attn = OfficialAttention(site.attention, kept)
    for module in list(official.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, PointwiseConv):
                child.__class__ = nn.Conv2d
            elif isinstance(child, ConvolvedMLP):
                setattr(module, name, OfficialConvolvedMLP(child))
            elif isinstance(child, UnbiasedLayerNorm2d):
                setattr(module, name, OfficialUnbiasedNorm(child))
    return official


class Setup:
    """A model in one form, with its images."""

    def __init__(
        self, form: str, name: str, batch: int, side: int, dtype: torch.dtype = torch.float32, **options: Any
    ) -> None:
        self.model = make_model(name, **options)
        kept: list[torch.Tensor] = []
        self.kept = kept
        self.diversification: Any = lambda: official_diversification(kept)
        if form == "official":
            self.model = in_official_arithmetic(self.model, kept)
        else:
            self.diversification = tapadl.AttentionDiversificationLoss(self.model, tau=TAU)
        self.model.to(dtype)
        generator = torch.Generator().manual_seed(1)
        self.images = torch.randn(batch, 3, side, side, generator=generator).to(dtype)
        self.labels = torch.arange(batch)

    def forward(self) -> torch.Tensor:
        """Logits in evaluation, without a loss."""
        self.model.eval()
        with torch.no_grad():
            logits: torch.Tensor = self.model(self.images)
        self.kept.clear()
        return logits

    def training_step(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and ADL of a training step; the gradients are left in the model."""
        self.model.train()
        self.model.zero_grad()
        logits = self.model(self.images)
        diversification = self.diversification()
        (F.cross_entropy(logits, self.labels) + diversification).backward()
        return logits.detach(), diversification.detach()


def training_step(form: str, name: str, batch: int, side: int, options: dict[str, Any]) -> Step:
    """The training step alone, for a fresh process."""
    return Setup(form, name, batch, side, **options).training_step


def max_error(name: str, **options: Any) -> float:
    """Largest difference between the forms in float64, over the largest value; of gradients, their norms."""
    values = []
    for form in ("official", "tapadl"):
        setup = Setup(form, name, 2, 224, torch.float64, **options)
        logits, diversification = setup.training_step()
        if not diversification > 0.01:
            raise SystemExit(f"{name}: expected ADL to have something to do, got {diversification}")
        gradients = sorted(float(parameter.grad.norm()) for parameter in setup.model.parameters())
        values.append([logits, diversification, torch.tensor(gradients)])
    return max(float((b - a).abs().max() / a.abs().max()) for a, b in zip(*values, strict=True))


def time_model(name: str, batch: int, pairs: int, **options: Any) -> list[dict[str, Any]]:
    """Rows of results of forward and training step."""
    error = max_error(name, **options)
    if not error < TOLERANCE:
        raise SystemExit(f"{name}: expected an error below {TOLERANCE}, got {error}; nothing was timed")
    setups = [Setup(form, name, batch, 224, **options) for form in ("official", "tapadl")]
    rows = []
    for what in ("forward", "training_step"):
        baseline, candidate = (getattr(setup, what) for setup in setups)
        comparison = compare(baseline, candidate, pairs=pairs, warmup=1)
        rows.append(as_row(comparison, model=name, what=what, batch=batch, max_relative_error=error))
        print(
            f"{name} {what}, batch {batch}: {comparison.speedup} x faster (quartiles "
            f"{comparison.speedup_quartiles}; {comparison.baseline_ms} -> {comparison.candidate_ms} ms)",
            flush=True,
        )
    return rows


def measure_memory() -> dict[str, Any]:
    """Bytes of a training step of the large model on one large image."""
    bytes_of = {
        f"{form}_{depth}_blocks": peak_memory(
            training_step, form, LARGE, 1, LARGE_SIDE, {"depths": (depth,), "num_classes": 19}
        )
        for form, depth in (("official", 1), ("official", 2), ("tapadl", 1), ("tapadl", 2), ("tapadl", 16))
    }
    per_block = {
        form: bytes_of[f"{form}_2_blocks"] - bytes_of[f"{form}_1_blocks"] for form in ("official", "tapadl")
    }
    for what, count in [*bytes_of.items(), *((f"{form} per block", one) for form, one in per_block.items())]:
        print(f"{LARGE} at {LARGE_SIDE} x {LARGE_SIDE}, {what}: {count / 2**30:.2f} GiB", flush=True)
    return {"model": LARGE, "side": LARGE_SIDE, "batch": 1, "bytes": bytes_of, "bytes_per_block": per_block}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one shallow model, one pair, nothing written")
    parser.add_argument("--pairs", type=int, default=11, help="interleaved pairs a model (default 11)")
    parser.add_argument("--batch", type=int, default=16, help="images a batch (default 16)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the results go")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.quick:
        time_model(MODELS[0], batch=2, pairs=1, depths=(1,))
        return
    rows = [row for name in MODELS for row in time_model(name, arguments.batch, arguments.pairs)]
    write_results(arguments.out, rows=rows, memory=measure_memory(), memory_method=MEMORY_METHOD)


if __name__ == "__main__":
    main()
