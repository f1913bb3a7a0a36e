"""How much attention leans on few tokens, in numbers: by layer and by head."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tapadl.attach.site import Site
from tapadl.diagnostics.listening import Images, Measured, every_site, listen, mean_over_batches
from tapadl.diagnostics.rows import Rows, check_map, rows_of_map
from tapadl.ops.diversification.cosines import inverse_norm
from tapadl.ops.precision import without_autocast

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOP_FRACTION = 0.05
PEAK_FRACTION = 0.01


@dataclass(frozen=True)
class AttentionFocus:
    """Over-focus of one layer, or of one of its heads, each number averaged over images (and windows).

    None of them says whether the layer is right: a layer may lean on few tokens for good reason.

    Args:
        top_share: Share of all attention that goes to the 5 % of the keys that receive most, in (0, 1].
        peak_share: The same of 1 % of the keys.
        gini: Inequality of what keys receive; 0 equal, (M - 1) / M all to one key.
        effective_keys: Number of keys that would, receiving equally, have the same entropy; 1 to M.
        participation: The same by the sum of squares, which rare keys move less; 1 to `effective_keys`.
        overlap: The ADL value: how alike the strong entries of the rows are; 0 to 1.
        cosine: The same over all entries.
        prefix_share: Share that class, distillation and register tokens receive.
    """

    top_share: float
    peak_share: float
    gini: float
    effective_keys: float
    participation: float
    overlap: float
    cosine: float
    prefix_share: float


@dataclass(frozen=True)
class LayerFocus:
    """Over-focus of one attention of a model.

    Args:
        name: Of its block.
        num_queries: N, of a window where there are windows; 1 for class attention.
        num_keys: M, likewise.
        num_windows: Windows an image is cut into; 1 for attention over all tokens.
        mean: Of the attention averaged over heads, which ADL reads.
        heads: Of every head by itself.
    """

    name: str
    num_queries: int
    num_keys: int
    num_windows: int
    mean: AttentionFocus
    heads: tuple[AttentionFocus, ...]


@dataclass(frozen=True)
class FocusReport:
    """Over-focus of a model; what `measure_focus` gives.

    Args:
        model: Name of its class.
        num_images: How many images it was measured on.
        tau: Threshold multiple of `overlap`.
        layers: In the order in which the model computes them.
    """

    model: str
    num_images: int
    tau: float
    layers: tuple[LayerFocus, ...]

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        return asdict(self)

    def plot(self) -> "Figure":
        """Every number over the layers: a line for the mean over heads, a dot for each head."""
        from tapadl.diagnostics.plots import plot_focus

        return plot_focus(self)


@torch.no_grad()
def measure_focus(
    model: nn.Module,
    images: Images,
    *,
    tau: float = 2.0,
    blocks: Sequence[int] | None = None,
    sites: Sequence[Site] | None = None,
) -> FocusReport:
    """How much every layer and head of a model leans on few tokens.

    With A the attention of a head, or its mean over heads, r the mean of its rows over the queries (what each
    of the M keys receives, sum 1), r_(j) sorted upwards, and P the number of prefix tokens:

        top_share      = sum of the ceil(0.05 M) largest r_j,   peak_share = of the ceil(0.01 M) largest
        gini           = 2 sum_j j r_(j) / M - (M + 1) / M
        effective_keys = exp(-sum_j r_j log r_j)
        participation  = 1 / sum_j r_j^2
        overlap        = mean over queries i of cos(f(A_i), f(r)),   f(v) = v where v > tau / M, else 0
        cosine         = mean over queries i of cos(A_i, r)
        prefix_share   = sum over j < P of r_j

    Where attention works in windows, M and r are those of a window, and numbers are averaged over windows.
    Masks count as in the loss: padding is neither query nor key. Class attention (CaiT, FAN), which the loss
    does not hear, is measured too; it has one row, so its cosine is 1.

    Rows are computed in blocks from query and key while the model runs, layer by layer: fused kernels stay
    on, nothing of size N x M is kept, no gradients are computed and the model keeps its mode.

    Args:
        model: A model that `AttentionDiversificationLoss` can listen to.
        images: What the model takes, (B, C, H, W), on its device; or several such batches, of one size.
        tau: Threshold multiple of `overlap`, at least 0.
        blocks: Indices of the sites to look at; None for all, and class attention.
        sites: The sites themselves, for a model of one's own.

    Returns:
        Numbers for every layer and head, averaged over images.

    Raises:
        ValueError: If there is no image, no site is found, an argument is out of range, a site is not one
            softmax over tokens, or batches have images of other sizes.
        RuntimeError: If a site computed no attention.

    Source:
        Overlap: Guo, Stutz, Schiele, ICCV 2023 (the loss itself). Effective numbers: Hill, "Diversity and
        Evenness", Ecology 54 (1973), of order 1 and 2; the second is the participation ratio of Bell and
        Dean, "Atomic vibrations in vitreous silica", Discussions of the Faraday Society 50 (1970). Gini:
        Gini, "Variabilita e mutabilita", 1912, in the form for sorted values.

    Example:
        >>> import timm
        >>> model = timm.create_model("vit_tiny_patch16_224", depth=2)
        >>> report = measure_focus(model, torch.randn(2, 3, 224, 224))
        >>> [(layer.name, layer.num_keys, len(layer.heads)) for layer in report.layers]
        [('blocks.0', 197, 3), ('blocks.1', 197, 3)]
        >>> round(report.layers[0].mean.effective_keys)              # a fresh model: nearly uniform
        197
    """
    _check_tau(tau)
    chosen = every_site(model, blocks, sites)

    def measure(batch: torch.Tensor) -> list[Measured]:
        found: list[Measured] = []

        def receive(index: int, rows: Rows) -> None:
            name, site = chosen[index]
            samples, _, queries, keys = rows.size
            numbers = focus_numbers(rows, site.num_prefix_tokens, tau, TOP_FRACTION)
            found.append(((name, queries, keys, samples // len(batch)), numbers))

        listen(model, batch, chosen, receive)
        return found

    measured, num_images = mean_over_batches(images, measure)
    layers = []
    for (name, queries, keys, windows), numbers in measured:
        *heads, mean = (AttentionFocus(*of_head) for of_head in numbers.tolist())
        layers.append(LayerFocus(name, queries, keys, windows, mean, tuple(heads)))
    return FocusReport(type(model).__name__, num_images, tau, tuple(layers))


@torch.no_grad()
def attention_focus(
    attention: torch.Tensor,
    *,
    top_fraction: float = TOP_FRACTION,
    tau: float = 2.0,
    num_prefix_tokens: int = 0,
) -> AttentionFocus:
    """Over-focus of one layer from a map that exists; the formulas stand in `measure_focus`.

    Args:
        attention: (B, N, M), floating point, averaged over heads, rows = queries with sum 1.
        top_fraction: Part of the keys that counts in `top_share`, in (0, 1]; at least one key.
        tau: Threshold multiple of `overlap`.
        num_prefix_tokens: The first keys, which `prefix_share` counts.

    Returns:
        The numbers, averaged over the B images.

    Raises:
        ValueError: If the map is not a floating-point (B, N, M) tensor or an option is out of range.

    Source:
        See `measure_focus`.

    Example:
        >>> focus = attention_focus(torch.full((1, 10, 40), 1 / 40))           # uniform
        >>> round(focus.top_share, 6), round(focus.effective_keys, 3), focus.overlap
        (0.05, 40.0, 0.0)
    """
    check_map("attention", attention)
    if not 0 < top_fraction <= 1:
        raise ValueError(f"expected top_fraction above 0 and at most 1, got {top_fraction}")
    _check_tau(tau)
    with without_autocast(attention.device):
        numbers = focus_numbers(rows_of_map(attention), num_prefix_tokens, tau, top_fraction)
    return AttentionFocus(*numbers[-1].tolist())


def received_attention(attention: torch.Tensor) -> torch.Tensor:
    """What each key receives on average, `r_j = mean over queries i of M_ij`.

    Args:
        attention: (B, N, M), floating point, averaged over heads, rows = queries with sum 1.

    Returns:
        (B, M) in at least float32, with sum 1; 1 / M everywhere where attention is uniform.

    Raises:
        ValueError: If the map is not a floating-point (B, N, M) tensor.

    Example:
        >>> received_attention(torch.tensor([[[1.0, 0.0], [0.5, 0.5]]]))
        tensor([[0.7500, 0.2500]])
    """
    check_map("attention", attention)
    return attention.mean(dim=1, dtype=torch.promote_types(attention.dtype, torch.float32))


def _check_tau(tau: float) -> None:
    if not tau >= 0:
        raise ValueError(f"expected tau of at least 0, got {tau}")


def focus_numbers(rows: Rows, num_prefix_tokens: int, tau: float, top_fraction: float) -> torch.Tensor:
    """The fields of `AttentionFocus`, (H + 1, 8): a row for each head, the last for their mean."""
    batch, heads, _, keys = rows.size
    seen = rows.visible
    if seen is None:
        limit = rows.like.new_full((1, 1), tau / keys).expand(rows.row_weight.shape)
        mean_limit = rows.like.new_full((1, 1, 1), tau / keys)
        num_keys = rows.like.new_full((batch, 1, 1), keys)
    else:
        limit = tau / seen.keys_seen.clamp(min=1)
        mean_limit = tau * seen.uniform_mean.unsqueeze(1)
        num_keys = (seen.uniform_mean > 0).sum(dim=1).clamp(min=1).to(rows.like.dtype)[:, None, None]

    # sums over queries of A, of A / |A| and of f(A) / |f(A)|
    received, units, strong_units = rows.like.new_zeros(3, batch, heads + 1, keys)
    for samples, at, of_heads in rows.blocks():
        attention = torch.cat((of_heads, of_heads.mean(dim=1, keepdim=True)), dim=1)
        weight = rows.row_weight[samples, None, None, at]
        received[samples] += (weight @ attention).squeeze(2)
        units[samples] += (weight * inverse_norm(attention).mT @ attention).squeeze(2)
        strong = attention.masked_fill_(attention <= limit[samples, None, at, None], 0.0)
        strong_units[samples] += (weight * inverse_norm(strong).mT @ strong).squeeze(2)

    strong_mean = received.masked_fill(received <= mean_limit, 0.0)
    of_samples = torch.stack(
        (
            _share_of_largest(received, num_keys, top_fraction),
            _share_of_largest(received, num_keys, PEAK_FRACTION),
            _gini(received, num_keys),
            torch.special.entr(received).sum(dim=-1).exp(),
            received.square().sum(dim=-1).clamp_min(torch.finfo(received.dtype).tiny).reciprocal(),
            (strong_units * strong_mean * inverse_norm(strong_mean)).sum(dim=-1),
            (units * received * inverse_norm(received)).sum(dim=-1),
            received[..., :num_prefix_tokens].sum(dim=-1),
        ),
        dim=-1,
    )  # (B, H + 1, 8)
    return torch.einsum("b,bhn->hn", rows.sample_weight, of_samples)


def _share_of_largest(received: torch.Tensor, num_keys: torch.Tensor, fraction: float) -> torch.Tensor:
    """Sum of the ceil(fraction x keys) largest, (B, H), of (B, H, M)."""
    # rounded first: 0.05 * 140 is a hair above 7
    count = (fraction * num_keys.cpu().double()).round(decimals=6).ceil().clamp(min=1).long()
    last = (count - 1).to(received.device).expand(*received.shape[:2], 1)
    largest_first = received.sort(dim=-1, descending=True).values
    return largest_first.cumsum(dim=-1).gather(-1, last).squeeze(-1)


def _gini(received: torch.Tensor, num_keys: torch.Tensor) -> torch.Tensor:
    ascending = received.sort(dim=-1).values
    # keys that nobody may see come first, with nothing: they shift the ranks of the others
    unseen = received.shape[-1] - num_keys
    rank = torch.arange(1, received.shape[-1] + 1, device=received.device) - unseen
    num = num_keys.squeeze(-1)
    return (2 * (rank * ascending).sum(dim=-1) - (num + 1)) / num
