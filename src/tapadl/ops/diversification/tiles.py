"""Tiles of attention scores: how large they are, and how one is filled.

A tile covers some samples, heads and rows (queries) and all the keys these rows see.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

# Between two products a tile is read some ten times, so it should stay in the L2 cache of a core (2 MB where
# this was measured). Below 32 rows the products slow down, above 64 nothing is won.
CPU_TILE_BYTES = 1 << 20
MIN_ROWS = 32
# exp of anything below takes the slow path for numbers next to 0, some fifty times as long.
LEAST_EXPONENT = -87.0
# Other devices want tiles that fill them; the backward holds one for every head.
TILE_BYTES = 1 << 26


@dataclass(frozen=True)
class Layer:
    """One attention layer, whose scores are computed tile by tile."""

    query: torch.Tensor
    key: torch.Tensor
    attn_bias: torch.Tensor | None
    scale: float
    is_causal: bool

    @property
    def dtype(self) -> torch.dtype:
        """What it is computed in."""
        return torch.promote_types(torch.promote_types(self.query.dtype, self.key.dtype), torch.float32)

    def tile_sizes(self) -> tuple[int, int, int]:
        """Samples, heads and rows: several heads only of all rows, several samples only of all heads."""
        batch, heads, rows, _ = self.query.shape
        keys = self.key.shape[2]
        tile = self._tile_elements()
        return (
            min(batch, max(1, tile // (heads * rows * keys))),
            min(heads, max(1, tile // (rows * keys))),
            min(rows, max(MIN_ROWS, tile // keys)),
        )

    def map_sizes(self) -> tuple[int, int]:
        """Samples and rows of a tile of all heads: several samples only of all rows."""
        batch, heads, rows, _ = self.query.shape
        row = heads * self.key.shape[2]
        tile = 2 * self._tile_elements()  # it is read half as often as a tile of scores
        return min(batch, max(1, tile // (row * rows))), min(rows, max(MIN_ROWS, tile // row))

    def _tile_elements(self) -> int:
        on_cpu = self.query.device.type == "cpu"
        return (CPU_TILE_BYTES * torch.get_num_threads() if on_cpu else TILE_BYTES) // self.dtype.itemsize

    def keys_seen(self, rows: slice) -> int:
        """How many keys, from the first on, some of these rows may attend to."""
        keys = self.key.shape[2]
        return min(keys, rows.stop) if self.is_causal else keys

    def scores(
        self,
        q: torch.Tensor,
        key_t: torch.Tensor,
        samples: slice,
        heads: slice,
        rows: slice,
        out: torch.Tensor,
    ) -> None:
        """Fill a tile (samples, heads, rows, keys seen) with q key_t, the bias and the masks."""
        left, right = q[:, heads, rows].flatten(0, 1), key_t[:, heads, :, : out.shape[-1]].flatten(0, 1)
        torch.bmm(left, right, out=out.flatten(0, 1))
        self.mask(out, samples, heads, rows)

    def mask(self, out: torch.Tensor, samples: slice, heads: slice, rows: slice) -> None:
        """Add the bias to a tile of scores and put minus infinity where nothing may be seen."""
        keys = out.shape[-1]
        if self.attn_bias is not None:
            bias = self.attn_bias[window(self.attn_bias, samples, heads, rows, slice(keys))]
            if bias.dtype == torch.bool:
                out.masked_fill_(~bias, -torch.inf)
            else:
                out.add_(bias)
        if self.is_causal:
            row = torch.arange(rows.start, rows.stop, device=out.device).unsqueeze(1)
            out.masked_fill_(torch.arange(keys, device=out.device) > row, -torch.inf)

    def without_infinity(self, exponents: torch.Tensor) -> torch.Tensor:
        """Exponents at most 0, in place: where masks have put minus infinity, what exp makes 1e-38 of."""
        masked = self.attn_bias is not None or self.is_causal
        return exponents.clamp_(min=LEAST_EXPONENT) if masked else exponents


def slices(size: int, step: int) -> Iterator[slice]:
    """0..size in steps, the last one shorter where it has to be."""
    for start in range(0, size, step):
        yield slice(start, min(start + step, size))


def window(broadcast: torch.Tensor, *slices: slice) -> tuple[slice, ...]:
    """Where a tile at `slices` lies in a tensor that has size 1 along the axes it is broadcast over."""
    return tuple(slice(None) if size == 1 else at for size, at in zip(broadcast.shape, slices, strict=True))


def shaped(buffer: torch.Tensor, *shape: int) -> torch.Tensor:
    """The beginning of a flat buffer as a contiguous tensor of this shape."""
    return buffer[: math.prod(shape)].view(shape)
