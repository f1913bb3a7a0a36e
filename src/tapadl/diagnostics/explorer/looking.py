"""One model looking at one picture under several conditions: what a page shows of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from tapadl.attach.capture import StoredMap
from tapadl.attach.tap import AttachedTAP
from tapadl.diagnostics import focus, stability
from tapadl.diagnostics.dilation import hear_branch_weights, mean_dilation
from tapadl.diagnostics.explorer.detail import KINDS, Detail, Kind, kept_queries
from tapadl.diagnostics.explorer.layout import TokenLayout, audible_sites, find_tokens
from tapadl.diagnostics.explorer.subject import Subject
from tapadl.diagnostics.listening import listen
from tapadl.diagnostics.rows import Rows

# Pictures through a model at once: the clean one and so many corrupted ones.
_AT_ONCE = 6
_ANSWERS = 3
TAU = 2.0


@dataclass(frozen=True)
class Layer:
    """One attention of a model.

    Args:
        name: Of its block.
        tokens: Where they lie.
        num_queries: N, of a window where there are windows.
        num_keys: M, likewise.
        num_heads: H.
        num_branches: K of the TAP in front of it; 0 without.
    """

    name: str
    tokens: TokenLayout
    num_queries: int
    num_keys: int
    num_heads: int
    num_branches: int = 0

    @property
    def is_class_attention(self) -> bool:
        """Whether the class token alone attends."""
        return self.num_queries == 1 < self.num_keys

    @property
    def num_places(self) -> int:
        """Prefix tokens and patches that can be attended to."""
        return self.tokens.num_prefix_tokens + self.tokens.key_grid[0] * self.tokens.key_grid[1]

    def queries(self, detail: Detail, kind: Kind) -> list[int] | None:
        """Of a kind of map, those that are kept."""
        return kept_queries(self.tokens, self.num_queries, detail.step(kind))


@dataclass(frozen=True, eq=False)
class _Reach:
    """Of one call of TAP.

    Args:
        dilation: The mean dilation of every patch, (B, rows, cols).
        num_branches: K.
    """

    dilation: torch.Tensor
    num_branches: int


@dataclass(frozen=True, eq=False)
class LayerLook:
    """One attention on one picture; heads first, their mean last.

    Args:
        received: What prefix tokens and patches receive on average, (H + 1, P + rows * cols).
        attention: Rows of the kept queries, (H + 1, Q, M).
        queries: Which those are, Q.
        focus: `top_share`, `effective_keys` and `overlap` of `AttentionFocus`, (H + 1, 3).
        cosine: Of `AttentionStability` against the clean picture.
        divergence: The same.
    """

    received: torch.Tensor
    attention: torch.Tensor
    queries: tuple[int, ...]
    focus: torch.Tensor
    cosine: float
    divergence: float


@dataclass(frozen=True, eq=False)
class Look:
    """A model on one picture under one condition.

    Args:
        answers: The most probable outputs and their probabilities, the first first.
        layers: One for each of the model's.
        dilation: Of each layer the mean dilation (rows, cols) that TAP chooses; None without TAP.
    """

    answers: tuple[tuple[int, float], ...]
    layers: tuple[LayerLook, ...]
    dilation: tuple[torch.Tensor | None, ...]


class Watcher:
    """Sees a model look at pictures of one size.

    Args:
        subject: The model.
        image: A picture as it prepares it, (C, H, W), uint8.

    Raises:
        ValueError: If the model has no attention that can be shown.
        RuntimeError: If a site computed no attention.
    """

    def __init__(self, subject: Subject, image: torch.Tensor) -> None:
        self.subject = subject
        self._sites, self.left_out = audible_sites(subject.model)
        batch = self._batch(image[None])
        seen = find_tokens(subject.model, self._sites, batch)
        # a site that is called twice is two layers
        self.layers: list[Layer] = []
        self._places: list[int | None] = []
        self._taps: list[AttachedTAP | None] = []

        def receive(index: int, rows: Rows) -> None:
            name, site = self._sites[index]
            tap = getattr(site.block, "tap", None)
            self._taps.append(tap if isinstance(tap, AttachedTAP) else None)
            found = seen[index].layout(rows.size, 1)
            if isinstance(found, str):
                self.left_out.append(f"{name}: {found}")
                self._places.append(None)
                return
            _, heads, queries, keys = rows.size
            self._places.append(len(self.layers))
            self.layers.append(Layer(name, found, queries, keys, heads))

        listen(subject.model, batch, self._sites, receive)
        if not self.layers:
            raise ValueError(f"expected attention that can be shown in {subject.name}, got none: "
                             f"{'; '.join(self.left_out[:1])}")  # fmt: skip
        self.layers = [
            layer if reach is None else replace(layer, num_branches=reach.num_branches)
            for layer, reach in zip(self.layers, self._reaches(batch), strict=True)
        ]

    def look(
        self, images: torch.Tensor, detail: Detail, on_progress: Callable[[int], None] = lambda count: None
    ) -> list[Look]:
        """The model on one picture: clean, and under further conditions.

        Args:
            images: (conditions, C, H, W), uint8, the first clean.
            detail: What is kept.
            on_progress: Called with the number of conditions that are done.
        """
        looks: list[Look] = []
        for start in range(0, max(len(images) - 1, 1), _AT_ONCE):
            corrupted = images[1 + start : 1 + start + _AT_ONCE]
            found = self._look(torch.cat((images[:1], corrupted)), detail, first=not looks)
            looks += found
            on_progress(len(found))
        return looks

    def _look(self, images: torch.Tensor, detail: Detail, *, first: bool) -> list[Look]:
        batch = self._batch(images)
        shown = range(0 if first else 1, len(images))
        layers: dict[int, list[LayerLook]] = {place: [] for place in shown}
        calls = iter(self._places)

        def receive(_index: int, rows: Rows) -> None:
            number = next(calls)
            if number is None:
                return
            layer = self.layers[number]
            parts = [_of_image(rows, place, len(images)) for place in range(len(images))]
            for place in shown:
                is_clean = place == 0
                layers[place].append(_layer_look(layer, parts[place], parts[0], detail, is_clean=is_clean))

        outputs: list[torch.Tensor] = []
        handle = self.subject.model.register_forward_hook(lambda _m, _i, output: outputs.append(output))
        try:
            listen(self.subject.model, batch, self._sites, receive)
        finally:
            handle.remove()
        reaches = self._reaches(batch)
        count = min(_ANSWERS, outputs[-1].shape[1])
        probabilities, classes = outputs[-1].float().softmax(dim=1).topk(count, dim=1)
        return [
            Look(
                tuple(zip(classes[place].tolist(), probabilities[place].tolist(), strict=True)),
                tuple(layers[place]),
                tuple(None if reach is None else reach.dilation[place] for reach in reaches),
            )
            for place in shown
        ]

    def _reaches(self, batch: torch.Tensor) -> list["_Reach | None"]:
        """Of every layer what its TAP chose in that call; None without TAP."""
        heard: dict[AttachedTAP, list[_Reach]] = {}

        def receive(tap: AttachedTAP, weights: torch.Tensor) -> None:
            heard.setdefault(tap, []).append(_Reach(mean_dilation(weights), weights.shape[1]))

        hear_branch_weights(self.subject.model, batch, receive)
        calls = {tap: iter(reaches) for tap, reaches in heard.items()}
        of_calls = [next(calls[tap], None) if tap in calls else None for tap in self._taps]
        return [reach for reach, place in zip(of_calls, self._places, strict=True) if place is not None]

    def _batch(self, images: torch.Tensor) -> torch.Tensor:
        like = next(self.subject.model.parameters(), torch.empty(0))
        return self.subject.normalise(images.to(like.device).float() / 255).to(like.dtype)


def _layer_look(layer: Layer, rows: Rows, clean: Rows, detail: Detail, *, is_clean: bool) -> LayerLook:
    kinds = [kind for kind in KINDS if kind.endswith("clean") == is_clean]
    queries = sorted({query for kind in kinds for query in layer.queries(detail, kind) or ()})
    received, attention = _read(layer, rows, queries)
    numbers = focus.focus_numbers(rows, layer.tokens.num_prefix_tokens, TAU, focus.TOP_FRACTION)
    cosine, divergence = (1.0, 0.0) if is_clean else stability.stability_numbers(clean, rows).tolist()
    return LayerLook(received, attention, tuple(queries), numbers[:, [0, 3, 5]].cpu(), cosine, divergence)


def _read(layer: Layer, rows: Rows, queries: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """What every place receives, and the rows of some queries, block by block."""
    samples, heads, _, keys = rows.size
    windows = layer.tokens.windows
    received = rows.like.new_zeros(samples, heads + 1, keys)
    kept = rows.like.new_zeros(heads + 1, len(queries), keys)
    if windows is None:
        at_sample, at_row = (
            torch.zeros(len(queries), dtype=torch.long),
            torch.tensor(queries, dtype=torch.long),
        )
    else:
        home = {place: (w, n) for w, window in enumerate(windows) for n, place in enumerate(window)}
        at_sample, at_row = (
            torch.tensor([home[query] for query in queries], dtype=torch.long).reshape(-1, 2).T
        )
    for block, span, of_heads in rows.blocks():
        attention = torch.cat((of_heads, of_heads.mean(dim=1, keepdim=True)), dim=1)
        weight = rows.row_weight[block, None, None, span]
        received[block] += (weight @ attention).squeeze(2)
        inside = (at_sample >= block.start) & (at_sample < block.stop)
        inside &= (at_row >= span.start) & (at_row < span.stop)
        chosen = attention[at_sample[inside] - block.start, :, at_row[inside] - span.start]
        kept[:, inside.to(kept.device)] = chosen.transpose(0, 1)
    return _placed(layer, received.cpu()), kept.cpu()


def _placed(layer: Layer, received: torch.Tensor) -> torch.Tensor:
    """What the keys of windows receive, (W, H + 1, M), put where they lie: (H + 1, P + rows * cols)."""
    if layer.tokens.windows is None:
        return received[0]
    places = torch.tensor(layer.tokens.windows).flatten()
    flat = received.movedim(1, 0).flatten(1)
    placed = flat.new_zeros(len(flat), layer.num_places)
    placed[:, places[places >= 0]] = flat[:, places >= 0]
    return placed


def _of_image(rows: Rows, place: int, num_images: int) -> Rows:
    """The attention of one image of a batch, all of its windows."""
    windows = rows.size[0] // num_images
    part = slice(place * windows, (place + 1) * windows)
    call = rows.call
    if isinstance(call, StoredMap):
        mask = call.mask if call.mask.shape[0] == 1 else call.mask[part]
        return Rows(StoredMap(call.attention[part], mask))
    bias = call.attn_bias
    if bias is not None and bias.ndim == 4 and bias.shape[0] > 1:
        bias = bias[part]
    return Rows(replace(call, query=call.query[part], key=call.key[part], attn_bias=bias))
