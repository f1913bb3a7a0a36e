"""How far attention moves when an image is corrupted: by layer, corruption and severity."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tapadl.attach.site import Site
from tapadl.corruptions import SEVERITIES, corrupt
from tapadl.diagnostics.listening import (
    Images,
    Measured,
    NamedSite,
    every_site,
    listen,
    mean_over_batches,
)
from tapadl.diagnostics.rows import Rows, check_map, rows_of_map
from tapadl.ops.diversification.cosines import inverse_norm
from tapadl.ops.precision import without_autocast

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class AttentionStability:
    """How alike the attention of a layer is on clean and corrupted images, mean over queries and images.

    Attention that stays put is no proof of robustness: uniform attention never moves and knows nothing.

    Args:
        cosine: 1 where every query attends as before, 0 where to other keys altogether.
        divergence: Jensen-Shannon divergence in nats; 0 where nothing moved, ln 2 where everything did.
    """

    cosine: float
    divergence: float


@dataclass(frozen=True)
class CorruptionStability:
    """Stability under one corruption.

    Args:
        corruption: Its name.
        severity: Its strength, 1 to 5.
        layers: One for each of the layers of the report.
    """

    corruption: str
    severity: int
    layers: tuple[AttentionStability, ...]


@dataclass(frozen=True)
class StabilityReport:
    """Stability of a model's attention; what `measure_stability` gives.

    Args:
        model: Name of its class.
        num_images: How many images it was measured on.
        seed: Of the corruptions.
        layers: Names of the blocks, in the order in which the model computes them.
        corruptions: One for each corruption and severity.
    """

    model: str
    num_images: int
    seed: int
    layers: tuple[str, ...]
    corruptions: tuple[CorruptionStability, ...]

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        return asdict(self)

    def plot(self) -> "Figure":
        """Both numbers by corruption and layer (mean over severities), and by corruption and severity."""
        from tapadl.diagnostics.plots import plot_stability

        return plot_stability(self)


def measure_stability(
    model: nn.Module,
    images: torch.Tensor,
    corruptions: Sequence[str],
    severities: Sequence[int] = SEVERITIES,
    *,
    normalise: Callable[[torch.Tensor], torch.Tensor] | None = None,
    seed: int = 0,
    batch_size: int = 16,
    blocks: Sequence[int] | None = None,
    sites: Sequence[Site] | None = None,
) -> StabilityReport:
    """How far the attention of every layer moves under corruptions.

    The formulas stand in `compare_attention`, which takes images that are corrupted already.

    Args:
        model: A model that `AttentionDiversificationLoss` can listen to.
        images: (B, C, H, W), floating point in 0..1, clean, on the device of the model.
        corruptions: Names in `tapadl.corruptions.CORRUPTIONS`, each counted once.
        severities: Of each, 1 to 5.
        normalise: What the model expects of images in 0..1; None for nothing.
        seed: Of the corruptions; an image's position in `images` is its index.
        batch_size: Images at a time, each of which is shown clean and corrupted.
        blocks: Indices of the sites to look at; None for all, and class attention.
        sites: The sites themselves, for a model of one's own.

    Returns:
        Numbers for every corruption, severity and layer, averaged over queries and images.

    Raises:
        ValueError: If there is no image, corruption or severity, a name is unknown, images leave 0..1, no
            site is found, an index is out of range, or a site is not one softmax over tokens.
        RuntimeError: If a site computed no attention.

    Source:
        See `compare_attention`. Corruptions: Hendrycks and Dietterich, ICLR 2019.

    Example:
        >>> import timm
        >>> model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2)
        >>> report = measure_stability(model, torch.rand(2, 3, 32, 32), ["fog", "contrast"], [1, 5])
        >>> [(cell.corruption, cell.severity, len(cell.layers)) for cell in report.corruptions]
        [('fog', 1, 2), ('fog', 5, 2), ('contrast', 1, 2), ('contrast', 5, 2)]
    """
    if not len(corruptions) or isinstance(corruptions, str) or not len(severities):
        raise ValueError(
            f"expected lists of at least one corruption and severity, got {corruptions!r} and {severities!r}"
        )
    prepared = normalise or (lambda given: given)

    def pairs(corruption: str, severity: int) -> Iterator[torch.Tensor]:
        for indices in torch.arange(len(images)).split(batch_size):
            clean = images[indices]
            corrupted = corrupt(clean, corruption, severity, seed=seed, indices=indices).to(clean.dtype)
            yield torch.cat((prepared(clean), prepared(corrupted)))

    chosen = every_site(model, blocks, sites)
    names: tuple[str, ...] = ()
    cells = []
    for corruption, severity in itertools.product(dict.fromkeys(corruptions), dict.fromkeys(severities)):
        names, layers = _compare(model, pairs(corruption, severity), chosen)
        cells.append(CorruptionStability(corruption, severity, layers))
    return StabilityReport(type(model).__name__, len(images), seed, names, tuple(cells))


def compare_attention(
    model: nn.Module,
    clean: torch.Tensor,
    corrupted: torch.Tensor,
    *,
    blocks: Sequence[int] | None = None,
    sites: Sequence[Site] | None = None,
) -> tuple[AttentionStability, ...]:
    """How alike the attention of every layer is on two versions of the same images.

    With p and q the row of a query, averaged over heads, on the clean and on the corrupted image, and H the
    entropy in nats:

        cosine     = p . q / (|p| |q|)
        divergence = H((p + q) / 2) - (H(p) + H(q)) / 2

    Both versions go through the model side by side, and rows are compared block by block while it runs: fused
    kernels stay on, nothing of size N x M is kept, no gradients are computed and the model keeps its mode.
    Queries of all windows count alike; padding does not count.

    Args:
        model: A model that `AttentionDiversificationLoss` can listen to.
        clean: What the model takes, (B, C, H, W), on its device.
        corrupted: The corrupted versions of the same images.
        blocks: Indices of the sites to look at; None for all, and class attention.
        sites: The sites themselves, for a model of one's own.

    Returns:
        Both numbers for each layer in the order in which the model computes them, averaged over queries and
        images.

    Raises:
        ValueError: If the two have different shapes, no site is found, an index is out of range, or a site is
            not one softmax over tokens.
        RuntimeError: If a site computed no attention.

    Source:
        Lin, "Divergence Measures Based on the Shannon Entropy", IEEE Transactions on Information Theory 37
        (1991). Comparing attention on clean and corrupted images: Guo, Stutz, Schiele, ICCV 2023.

    Example:
        >>> import timm
        >>> model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=1)
        >>> images = torch.rand(1, 3, 32, 32)
        >>> round(compare_attention(model, images, images)[0].cosine, 4)
        1.0
    """
    _check_shapes("images", clean, corrupted)
    return _compare(model, torch.cat((clean, corrupted)), every_site(model, blocks, sites))[1]


@torch.no_grad()
def attention_stability(clean: torch.Tensor, corrupted: torch.Tensor) -> AttentionStability:
    """Likeness of two attention maps that exist, row by row; the formulas stand in `compare_attention`.

    Args:
        clean: (B, N, M), floating point, averaged over heads, rows = queries with sum 1.
        corrupted: The same for the corrupted versions of the same images.

    Returns:
        Both numbers, averaged over the N queries and the B images.

    Raises:
        ValueError: If the maps are not floating-point (B, N, M) tensors of one shape.

    Source:
        See `compare_attention`.

    Example:
        >>> left, right = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]])
        >>> attention_stability(left, left)
        AttentionStability(cosine=1.0, divergence=0.0)
        >>> round(attention_stability(left, right).divergence, 4)              # ln 2
        0.6931
    """
    check_map("clean", clean)
    check_map("corrupted", corrupted)
    _check_shapes("maps", clean, corrupted)
    dtype = torch.promote_types(clean.dtype, corrupted.dtype)
    with without_autocast(clean.device):
        numbers = stability_numbers(rows_of_map(clean.to(dtype)), rows_of_map(corrupted.to(dtype)))
    return AttentionStability(*numbers.tolist())


def _check_shapes(what: str, clean: torch.Tensor, corrupted: torch.Tensor) -> None:
    if clean.shape != corrupted.shape:
        raise ValueError(
            f"expected clean and corrupted {what} of one shape, got {tuple(clean.shape)} and "
            f"{tuple(corrupted.shape)}"
        )


def _compare(
    model: nn.Module, pairs: Images, chosen: Sequence[NamedSite]
) -> tuple[tuple[str, ...], tuple[AttentionStability, ...]]:
    """Names and numbers of the layers; a batch holds images and behind them their corrupted versions."""

    def measure(batch: torch.Tensor) -> list[Measured]:
        found: list[Measured] = []

        def receive(index: int, rows: Rows) -> None:
            # windows stand in order of their images, so the halves of the batch belong together here too
            clean, corrupted = rows.half(second=False), rows.half(second=True)
            found.append(((chosen[index][0], *rows.size[1:]), stability_numbers(clean, corrupted)))

        listen(model, batch, chosen, receive)
        return found

    measured, _ = mean_over_batches(pairs, measure)
    names = tuple(str(what[0]) for what, _ in measured)
    return names, tuple(AttentionStability(*numbers.tolist()) for _, numbers in measured)


def stability_numbers(clean: Rows, corrupted: Rows) -> torch.Tensor:
    """The fields of `AttentionStability`, (2,), of two attentions of one size."""
    total = clean.like.new_zeros(2)
    for (samples, at, p), (_, _, q) in zip(clean.blocks(), corrupted.blocks(), strict=True):
        p, q = p.mean(dim=1), q.mean(dim=1)
        lengths = (inverse_norm(p) * inverse_norm(q)).squeeze(-1)
        cosine = (p * q).sum(dim=-1) * lengths
        divergence = _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2
        weight = clean.row_weight[samples, at] * clean.sample_weight[samples, None]
        total[0] += (weight * cosine).sum()
        # rounding may leave a hair below zero
        total[1] += (weight * divergence.clamp(min=0)).sum()
    return total


def _entropy(rows: torch.Tensor) -> torch.Tensor:
    entropy: torch.Tensor = torch.special.entr(rows).sum(dim=-1)
    return entropy
