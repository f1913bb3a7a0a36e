"""The rows of one attention, block by block, whether its map exists or only its query and key.

B batch (images, or their windows), H heads, N queries, M keys; of a block: S samples, R rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

from tapadl.attach.capture import Captured, QueryKey, StoredMap
from tapadl.ops.diversification import may_see
from tapadl.ops.diversification.tiles import Layer, shaped, slices
from tapadl.ops.diversification.visibility import Visibility, visibility, weights


@dataclass(frozen=True)
class Rows:
    """One attention, read in blocks of rows: beside query and key only a few blocks exist at a time.

    Args:
        call: What was heard.
    """

    call: Captured

    @property
    def size(self) -> tuple[int, int, int, int]:
        """(B, H, N, M)."""
        call = self.call
        if isinstance(call, StoredMap):
            batch, heads, queries, keys = call.attention.shape
            return batch, heads, queries, keys
        return call.query.shape[0], call.query.shape[1], call.query.shape[2], call.key.shape[2]

    @property
    def like(self) -> torch.Tensor:
        """An empty tensor of the dtype, at least float32, and device that everything is computed in."""
        call = self.call
        parts = (call.attention,) if isinstance(call, StoredMap) else (call.query, call.key)
        dtype = torch.float32
        for part in parts:
            dtype = torch.promote_types(dtype, part.dtype)
        return parts[0].new_empty(0, dtype=dtype)

    @cached_property
    def visible(self) -> Visibility | None:
        """What masks leave, as the loss counts it; None where every query sees every key."""
        batch, _, queries, keys = self.size
        call = self.call
        if isinstance(call, StoredMap):
            mask: torch.Tensor | None = call.mask
            is_causal = False
        else:
            mask = None if call.attn_bias is None else may_see(_four_axes(call.attn_bias))
            is_causal = call.is_causal
        query_mask = None
        if mask is not None and queries == keys:
            query_mask = (
                mask.any(dim=1).any(dim=1).expand(batch, queries)
            )  # a token that nobody sees: padding
        return visibility((batch, queries, keys), mask, is_causal, query_mask, self.like)

    @cached_property
    def row_weight(self) -> torch.Tensor:
        """Weight of each query within its sample, (B, N); sum 1 where any counts."""
        batch, _, queries, _ = self.size
        if self.visible is None:
            return self.like.new_full((batch, queries), 1 / queries)
        counts = self.visible.keys_seen > 0
        return weights(self.visible.keys_seen)[0] * counts

    @cached_property
    def sample_weight(self) -> torch.Tensor:
        """Weight of each sample, (B,); sum 1 where any counts."""
        batch = self.size[0]
        if self.visible is None:
            return self.like.new_full((batch,), 1 / batch)
        return weights(self.visible.keys_seen)[1].squeeze(1)

    def half(self, second: bool) -> "Rows":
        """The first or the second half of the batch."""
        batch = self.size[0]
        part = slice(batch // 2, None) if second else slice(0, batch // 2)
        call = self.call
        if isinstance(call, StoredMap):
            return Rows(StoredMap(call.attention[part], _part(call.mask, part)))
        bias = None if call.attn_bias is None else _part(_four_axes(call.attn_bias), part)
        return Rows(QueryKey(call.query[part], call.key[part], call.scale, bias, call.is_causal))

    def blocks(self) -> Iterator[tuple[slice, slice, torch.Tensor]]:
        """Samples, rows, and their attention (S, H, R, M); rows that see nothing are 0."""
        call = self.call
        batch, heads, queries, keys = self.size
        if isinstance(call, StoredMap):
            # only the sizes of query and key count here
            sizes = Layer(
                self.like.new_empty(batch, heads, queries, 0), self.like.new_empty(batch, heads, keys, 0),
                None, 1.0, False,
            )  # fmt: skip
            tile_samples, tile_rows = sizes.map_sizes()
            for samples in slices(batch, tile_samples):
                for rows in slices(queries, tile_rows):
                    yield samples, rows, call.attention[samples, :, rows].to(self.like.dtype)
            return
        bias = None if call.attn_bias is None else _four_axes(call.attn_bias)
        scale = call.query.shape[-1] ** -0.5 if call.scale is None else call.scale
        layer = Layer(call.query, call.key, bias, scale, call.is_causal)
        tile_samples, tile_rows = layer.map_sizes()
        buffer = self.like.new_empty(tile_samples * heads * tile_rows * keys)
        for samples in slices(batch, tile_samples):
            # contiguous, or every block would copy its heads together
            query = call.query[samples].to(self.like.dtype).mul(scale).contiguous()
            key_t = call.key[samples].to(self.like.dtype).contiguous().mT
            for rows in slices(queries, tile_rows):
                scores = shaped(buffer, query.shape[0], heads, rows.stop - rows.start, keys)
                layer.scores(query, key_t, samples, slice(0, heads), rows, out=scores)
                attention = scores.softmax(dim=-1)
                if bias is not None or call.is_causal:
                    attention.masked_fill_(scores.amax(dim=-1, keepdim=True) == -torch.inf, 0.0)
                yield samples, rows, attention


def rows_of_map(attention: torch.Tensor) -> Rows:
    """The rows of a map (B, N, M) that exists, every query of which sees every key."""
    mask = torch.ones((1, 1, 1, 1), dtype=torch.bool, device=attention.device)
    return Rows(StoredMap(attention.unsqueeze(1), mask))


def check_map(name: str, attention: torch.Tensor) -> None:
    """Raise ValueError unless `attention` is a floating-point (B, N, M) map without an empty axis."""
    if attention.ndim != 3 or 0 in attention.shape:
        raise ValueError(
            f"expected {name} of shape (B, N, M), averaged over heads, without an empty axis, "
            f"got {tuple(attention.shape)}"
        )
    if not attention.is_floating_point():
        raise ValueError(f"expected {name} of a floating-point dtype, got {attention.dtype}")


def _four_axes(bias: torch.Tensor) -> torch.Tensor:
    return bias[(None,) * (4 - bias.ndim)]


def _part(broadcast: torch.Tensor, part: slice) -> torch.Tensor:
    return broadcast if broadcast.shape[0] == 1 else broadcast[part]
