"""Attention rollout: which patches a token draws on through all the layers, by their attention alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from tapadl.attach.site import MeasuredGrid, Site
from tapadl.diagnostics.listening import every_site, listen
from tapadl.diagnostics.rows import Rows
from tapadl.ops.numbers import is_integer
from tapadl.ops.precision import without_autocast

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Rollout:
    """Where the attention of a token comes from through all layers; what `attention_rollout` gives.

    Args:
        model: Name of its class.
        token: The token that is explained: its index, or "mean" for the mean of the patches.
        patches: Share of every patch, (B, rows, cols), on the CPU; (B, 1, N) where no grid shows.
        prefix: Share of every prefix token, (B, P), on the CPU. Both together have sum 1 for each image.
    """

    model: str
    token: int | Literal["mean"]
    patches: torch.Tensor
    prefix: torch.Tensor

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "model": self.model,
            "token": self.token,
            "patches": self.patches.tolist(),
            "prefix": self.prefix.tolist(),
        }

    def plot(self, images: torch.Tensor | None = None) -> "Figure":
        """A map for each image, and above it the image.

        Args:
            images: (B, C, H, W) in 0..1, to show above; None for the maps alone.
        """
        from tapadl.diagnostics.plots import plot_rollout

        return plot_rollout(self, images)


@torch.no_grad()
def attention_rollout(
    model: nn.Module,
    images: torch.Tensor,
    token: int | Literal["mean"] | None = None,
    *,
    blocks: Sequence[int] | None = None,
    sites: Sequence[Site] | None = None,
) -> Rollout:
    """Which patches one token draws on through all layers, following their attention.

    With A_l the attention of layer l averaged over heads and e the token (or 1 / N at each patch),

        rollout = e W_L ... W_2 W_1,   W_l = (A_l + I) / 2

    from the last layer to the first: products of a vector and blocks of rows. Query and key of all layers are
    kept for it, in memory linear in the number of tokens; a model that computes its maps itself has them kept
    too. Class attention (CaiT, FAN) moves the class token alone.

    It refuses models whose layers do not attend from all tokens to the same tokens, because a window (Swin),
    pooled keys (PVT, SegFormer) or merged patches (RVT, FAN of two widths) leave nothing to multiply.

    Args:
        model: A model that `AttentionDiversificationLoss` can listen to.
        images: What the model takes, (B, C, H, W), on its device.
        token: Index of the token to explain, in the last layer (0 is the class token where there is one);
            "mean" for the mean of the patches, which mean pooling reads; None for token 0 where the last
            layer has prefix tokens and "mean" elsewhere.
        blocks: Indices of the sites to follow; None for all, and class attention.
        sites: The sites themselves, for a model of one's own.

    Returns:
        The share of every patch and prefix token, for each image.

    Raises:
        ValueError: If the model is one of those above, there is no such token, no site is found, an index is
            out of range, or a site is not one softmax over tokens.
        RuntimeError: If a site computed no attention.

    Source:
        Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, section 3.

    Example:
        >>> import timm
        >>> model = timm.create_model("vit_tiny_patch16_224", depth=2)
        >>> rollout = attention_rollout(model, torch.randn(2, 3, 224, 224))
        >>> rollout.token, tuple(rollout.patches.shape), tuple(rollout.prefix.shape)
        (0, (2, 14, 14), (2, 1))
        >>> torch.allclose(rollout.patches.sum((1, 2)) + rollout.prefix.sum(1), torch.ones(2))
        True
    """
    chosen = every_site(model, blocks, sites)
    heard: list[tuple[int, Rows]] = []
    grid = _GridProbe(chosen[0][1])
    try:
        listen(model, images, chosen, lambda index, rows: heard.append((index, rows)))
    finally:
        grid.close()
    for index, rows in heard:
        _check(chosen[index][0], rows, heard[0][1], len(images))

    last_index, last = heard[-1]
    num_prefix_tokens = chosen[last_index][1].num_prefix_tokens
    if token is None:
        token = 0 if num_prefix_tokens else "mean"
    share = _start(token, last, num_prefix_tokens)
    with without_autocast(share.device):
        joined = share[:, :0]  # a class token that joins behind the layers that follow, from the back
        for _, rows in reversed(heard):
            _, _, queries, keys = rows.size
            if queries == keys < share.shape[1]:
                joined, share = share[:, :1], share[:, 1:]
            moved = _times_attention(share[:, :queries], rows)
            share = torch.cat((share[:, :queries] / 2, share[:, queries:]), dim=1) + moved / 2
    share = torch.cat((joined, share), dim=1)
    prefix, patches = share[:, :num_prefix_tokens].cpu(), share[:, num_prefix_tokens:].cpu()
    return Rollout(type(model).__name__, token, patches.unflatten(1, grid.size(patches.shape[1])), prefix)


def _times_attention(share: torch.Tensor, rows: Rows) -> torch.Tensor:
    """A vector (B, N) times the attention averaged over heads, (B, M)."""
    batch, heads, _, keys = rows.size
    moved = rows.like.new_zeros(batch, keys)
    for samples, at, attention in rows.blocks():
        moved[samples] += torch.einsum("sr,shrm->sm", share[samples, at].to(moved.dtype) / heads, attention)
    return moved


def _start(token: int | Literal["mean"], last: Rows, num_prefix_tokens: int) -> torch.Tensor:
    """The vector (B, M) that the product begins with."""
    batch, _, _, keys = last.size
    start = last.like.new_zeros(batch, keys)
    if token == "mean":
        start[:, num_prefix_tokens:] = 1 / (keys - num_prefix_tokens)
    elif is_integer(token) and 0 <= token < keys:
        start[:, token] = 1
    else:
        raise ValueError(f'expected token to be an index below {keys} or "mean", got {token!r}')
    return start


def _check(name: str, rows: Rows, first: Rows, num_images: int) -> None:
    batch, _, queries, keys = rows.size
    tokens = first.size[3]
    all_to_all = queries == keys == tokens
    from_class = queries == 1 and keys in (tokens, tokens + 1)
    if batch != num_images or not (all_to_all or from_class):
        raise ValueError(
            f"expected attention from all tokens of an image to the same tokens in every layer, got "
            f"{queries} queries and {keys} keys in {batch} windows of {num_images} images at {name}; rollout "
            f"has no meaning where windows, pooled keys or merged patches change what a token is"
        )


class _GridProbe:
    """Sees the grid of the patches in the next forward, where the site tells it."""

    def __init__(self, site: Site) -> None:
        self._found: tuple[int, ...] | None = site.grid if isinstance(site.grid, tuple) else None
        self._handles = []
        # where TAP does not fit, nobody promises that the grid can be measured
        if isinstance(site.grid, MeasuredGrid) and not site.refuses_tap:
            self._measure = site.grid.measure
            self._handles.append(site.grid.module.register_forward_pre_hook(self._see))

    def _see(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._found = self._measure(module, inputs)

    def size(self, num_patches: int) -> tuple[int, int]:
        """(rows, cols); (1, num_patches) where no grid shows."""
        if self._found is not None and len(self._found) == 2:
            rows, cols = self._found
            if rows * cols == num_patches:
                return rows, cols
        return 1, num_patches

    def close(self) -> None:
        """Take the hook off."""
        for handle in self._handles:
            handle.remove()
