"""Where the tokens of an attention lie in the picture: on a grid, in windows, or behind prefix tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
from torch import nn

from tapadl.attach.site import MeasuredGrid, Site, select_sites
from tapadl.diagnostics.listening import NamedSite, evaluation_mode, every_site

Size = tuple[int, int, int, int]  # samples, heads, queries, keys


@dataclass(frozen=True)
class TokenLayout:
    """Where the tokens of one attention lie.

    Args:
        num_prefix_tokens: Class, distillation and register tokens, in front of the patches.
        grid: Rows and columns of the patches that attend.
        key_grid: The same of those attended to.
        windows: For each window the place in the grid, row by row, of each of its tokens, -1 for padding;
            None where attention is not cut into windows.
    """

    num_prefix_tokens: int
    grid: tuple[int, int]
    key_grid: tuple[int, int]
    windows: tuple[tuple[int, ...], ...] | None = None


def audible_sites(model: nn.Module) -> tuple[list[NamedSite], list[str]]:
    """The sites whose attention is a softmax over tokens, and a sentence for each of the others.

    Raises:
        ValueError: If there is none.
    """
    found = select_sites(model, None, None)
    refused = [f"{name}: {site.refuses_adl}" for name, site in found if site.refuses_adl]
    if not refused:
        return every_site(model, None, None), []
    heard = [place for place, (_, site) in enumerate(found) if not site.refuses_adl]
    if not heard:
        raise ValueError(f"expected attention that can be looked at, got none: {refused[0]}")
    return every_site(model, heard, None), refused


def find_tokens(model: nn.Module, sites: Sequence[NamedSite], image: torch.Tensor) -> list["SeenTokens"]:
    """See where the tokens of every site come from, in one forward pass.

    Args:
        model: A model with these sites.
        sites: Of `audible_sites`.
        image: Of the size that counts, (1, C, H, W); noise takes its place: no two tokens are alike then.
    """
    seen = [SeenTokens(site) for _, site in sites]
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(image.shape, generator=generator).to(image)
    try:
        with torch.no_grad(), evaluation_mode(model):
            model(noise)
    finally:
        for tokens in seen:
            tokens.close()
    return seen


class SeenTokens:
    """Sees the grid in front of an attention, the tokens on it, and what of them the attention is given.

    Windows are told apart by their content: a token of a window is bit for bit one of the tokens on the grid.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._grid: tuple[int, int] | None = None
        self._tokens: torch.Tensor | None = None
        self._given: torch.Tensor | None = None
        entry = site.norm
        if entry in (site.block, site.attention):
            self._handles = [entry.register_forward_pre_hook(self._see_tokens)]
        else:
            self._handles = [
                entry.register_forward_hook(lambda m, _i, output: self._see_tokens(m, (output,)))
            ]
        self._handles.append(site.attention.register_forward_pre_hook(self._see_given, with_kwargs=True))
        if isinstance(site.grid, MeasuredGrid) and not site.refuses_tap:
            self._handles.append(site.grid.module.register_forward_pre_hook(self._measure))
        elif isinstance(site.grid, tuple) and len(site.grid) == 2:
            self._grid = (site.grid[0], site.grid[1])

    def layout(self, size: Size, num_images: int) -> TokenLayout | str:
        """The layout for an attention of this size, or why its tokens cannot be placed in the picture."""
        samples, _, queries, keys = size
        prefix = self._site.num_prefix_tokens
        num_windows = samples // num_images
        grid = self._grid or _square(max(queries, keys) - prefix)
        if grid is None:
            return "its tokens lie on no grid that shows"
        patches = grid[0] * grid[1]
        if num_windows == 1 and queries in (prefix + patches, 1):
            for behind in (prefix, 0):
                if key_grid := _coarser(grid, keys - behind):
                    return TokenLayout(behind, grid, key_grid)
        windows = self._windows(num_windows, keys)
        if queries != keys or windows is None:
            return "it cuts its tokens into windows in a way that does not show"
        return TokenLayout(0, grid, grid, windows)

    def close(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def _see_tokens(self, _module: nn.Module, inputs: tuple[Any, ...]) -> None:
        tokens = inputs[0]
        if not isinstance(tokens, torch.Tensor) or tokens.ndim not in (3, 4):
            return
        if tokens.ndim == 4 and isinstance(self._site.grid, str):
            if self._site.grid == "NCHW":
                tokens = tokens.permute(0, 2, 3, 1)
            self._grid = (tokens.shape[1], tokens.shape[2])
        self._tokens = tokens[0].flatten(0, -2)

    def _see_given(self, _module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        given = [value for value in (*inputs, *options.values()) if isinstance(value, torch.Tensor)]
        self._given = given[0] if given else None

    def _measure(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(self._site.grid, MeasuredGrid)
        self._grid = self._site.grid.measure(module, inputs)

    def _windows(self, num_windows: int, size: int) -> tuple[tuple[int, ...], ...] | None:
        tokens, given = self._tokens, self._given
        if tokens is None or given is None or given.ndim < 3:
            return None
        if given.shape[-1] != tokens.shape[-1]:
            given = given.movedim(1, -1)
        if given.shape[-1] != tokens.shape[-1] or given.numel() != num_windows * size * tokens.shape[-1]:
            return None
        places = {_bytes(token): place for place, token in enumerate(tokens)}
        found = [places.get(_bytes(token), -1) for token in given.reshape(num_windows * size, -1)]
        if not set(places.values()) <= set(found):
            return None
        return tuple(tuple(found[start : start + size]) for start in range(0, len(found), size))


def _bytes(vector: torch.Tensor) -> bytes:
    return vector.cpu().contiguous().view(torch.uint8).numpy().tobytes()


def _square(count: int) -> tuple[int, int] | None:
    side = isqrt(max(count, 0))
    return (side, side) if side and side * side == count else None


def _coarser(grid: tuple[int, int], count: int) -> tuple[int, int] | None:
    """The grid itself, or one of fewer patches of the same shape that covers the picture."""
    for factor in range(1, max(grid) + 1):
        down = grid[0] // factor, grid[1] // factor
        up = -(-grid[0] // factor), -(-grid[1] // factor)
        for sides in (down, up):
            if sides[0] * sides[1] == count:
                return sides
    return None
