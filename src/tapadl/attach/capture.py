"""What every attention of a model computed in its last forward, heard without changing it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode

from tapadl.attach.multihead import audible_multi_head_attention
from tapadl.attach.recomputation import recomputing
from tapadl.attach.site import MeasuredGrid, Site
from tapadl.ops.diversification import may_see


@dataclass(frozen=True)
class QueryKey:
    """One attention computed by a fused kernel: softmax(query key^T * scale + attn_bias).

    Args:
        query: Queries (B, H, N, D), in the graph of the model.
        key: Keys (B, H, M, D).
        scale: Factor of the product; None for 1 / sqrt(D).
        attn_bias: Additive bias, or boolean mask (True may attend), that broadcasts to (B, H, N, M); or None.
        is_causal: Whether query i sees keys 0..i only.
    """

    query: torch.Tensor
    key: torch.Tensor
    scale: float | None
    attn_bias: torch.Tensor | None
    is_causal: bool


@dataclass(frozen=True)
class StoredMap:
    """One attention that the model computed as a map (B, H, N, M), before attention dropout.

    Args:
        attention: The map.
        mask: Where a query may attend in some head, boolean (B, 1, N, M).
        scores_dtype: Of what the softmax was taken of.
    """

    attention: torch.Tensor
    mask: torch.Tensor
    scores_dtype: torch.dtype = torch.float32


Captured = QueryKey | StoredMap


@dataclass(frozen=True)
class HeadLayout:
    """Where the heads stand in query (..., N, D) and map (..., N, M); what stands beside them is batch.

    Args:
        axis: Of the heads; None where they are folded into the batch, (B H, N, D).
        num_heads: H, for heads that are folded.
    """

    axis: int | None
    num_heads: int

    @classmethod
    def of(cls, site: Site) -> "HeadLayout":
        """The layout at a site."""
        folded = isinstance(site.attention, nn.MultiheadAttention)  # in maps; query and key have 4 axes
        return cls(None if folded else site.head_axis, getattr(site.attention, "num_heads", 1))

    @property
    def num_axes(self) -> int:
        """The fewest axes such a tensor has."""
        return 3 if self.axis is None else 4

    def four_axes(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor as (B, H, N, D).

        Raises:
            RuntimeError: If the heads do not stand there.
        """
        if self.axis is None:
            return tensor if tensor.ndim == 4 else tensor.unflatten(0, (-1, self.num_heads))
        if not -tensor.ndim <= self.axis < tensor.ndim or self.axis % tensor.ndim >= tensor.ndim - 2:
            raise RuntimeError(
                f"expected head_axis of the tapadl.Site to be an axis in front of the last two of "
                f"{tuple(tensor.shape)}, got {self.axis}"
            )
        return tensor.movedim(self.axis, -3).flatten(0, -4)


class AttentionCapture:
    """Listens to the attentions of a model and keeps references to what they computed in the last forward.

    A pre-hook and an always-called hook on each attention module enter and leave a `TorchFunctionMode` which
    sees `scaled_dot_product_attention`, or the softmax where a model computes its maps itself. Nothing is
    heard while gradients are disabled (unless `without_grad`), nor when blocks are computed a second time in
    the backward pass (gradient checkpointing). Copies of the model do not listen.

    Args:
        model: The model whose calls begin a new forward.
        sites: Where to listen.
        without_grad: Listen under `torch.no_grad()` too, for diagnostics.
    """

    def __init__(self, model: nn.Module, sites: Sequence[Site], *, without_grad: bool = False) -> None:
        self.is_open = True
        self._without_grad = without_grad
        self._inside_model = False
        self._begun: set[nn.Module] = set()
        self._heard: list[list[Captured]] = [[] for _ in sites]
        self._ran = [False for _ in sites]
        self._heads = [HeadLayout.of(site) for site in sites]
        # The first: a model with a patch embedding a stage has many, which follow it in the same forward.
        entries = [site.grid.module for site in sites if isinstance(site.grid, MeasuredGrid)][:1]
        self._handles = [
            # prepend: hooks of two captures on one module nest, so that each leaves the mode it entered
            model.register_forward_pre_hook(self._enter_forward, prepend=True),
            model.register_forward_hook(self._leave_forward, always_call=True),
            *(
                entry.register_forward_pre_hook(self._begin_features)
                for entry in entries
                if entry is not model
            ),
        ]
        self._has_entries = bool(entries)
        self._listeners = [SiteListener(self, index) for index in range(len(sites))]
        for site, listener in zip(sites, self._listeners, strict=True):
            self._handles += [
                site.attention.register_forward_pre_hook(listener.enter),
                site.attention.register_forward_hook(listener.leave, always_call=True, prepend=True),
            ]

    def take(self) -> list[list[Captured]]:
        """What each site computed in the last forward, in order of its calls; nothing is kept here."""
        taken = [list(heard) for heard in self._heard]
        self._forget()
        return taken

    def close(self) -> None:
        """Take the hooks off the model."""
        self.is_open = False
        self._forget()
        for listener in self._listeners:
            listener.take_off_the_interrupted()
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def listens(self) -> bool:
        """Whether what the model computes now counts."""
        # An export runs the model with gradients enabled, on tensors without values.
        learns = (self._without_grad or torch.is_grad_enabled()) and not torch.compiler.is_exporting()
        return self.is_open and learns and not recomputing()

    def ran(self) -> list[bool]:
        """Whether each site was called in the last forward, heard or not; ask before `take`."""
        return list(self._ran)

    def _forget(self) -> None:
        self._begun.clear()
        for index, heard in enumerate(self._heard):
            heard.clear()
            self._ran[index] = False

    def _enter_forward(self, model: nn.Module, _inputs: tuple[Any, ...]) -> None:
        if getattr(model, "_is_replica", False):
            raise RuntimeError(
                "nn.DataParallel runs copies of the model in threads, where ADL cannot tell them apart; use "
                "torch.nn.parallel.DistributedDataParallel"
            )
        self._inside_model = True
        if self.listens():
            self._forget()

    def _leave_forward(self, _model: nn.Module, _inputs: tuple[Any, ...], _output: Any) -> None:
        self._inside_model = False

    def _begin_features(self, entry: nn.Module, _inputs: tuple[Any, ...]) -> None:
        # forward_features and its like do not call the model as a module; the modules that tell the grid they
        # do. One that is called again begins a new forward.
        if self.listens():
            if entry in self._begun and not self._inside_model:
                self._forget()
            self._begun.add(entry)

    def hear(self, index: int) -> list[Captured]:
        """Where a site puts what it computes in the call that begins."""
        if self._ran[index] and not (self._inside_model or self._has_entries):
            self._forget()  # nothing else tells that a forward begins
        self._ran[index] = True
        return self._heard[index]

    def heads(self, index: int) -> "HeadLayout":
        """Where the heads stand in what a site computes."""
        return self._heads[index]

    def __getstate__(self) -> dict[str, Any]:
        """A copy (deepcopy, EMA, pickle) has the hooks but hears nothing."""
        closed: dict[str, Any] = {"is_open": False, "_without_grad": False, "_inside_model": False}
        return closed | {
            "_has_entries": False,
            "_begun": set(),
            "_heard": [],
            "_ran": [],
            "_heads": [],
            "_handles": self._handles,  # unpickled, they keep the numbers of these hooks from new ones
            "_listeners": [],
        }


class SiteListener:
    """The two hooks of one attention module."""

    def __init__(self, capture: AttentionCapture, index: int) -> None:
        self.capture = capture
        self.index = index
        self.entered: list[_AttentionMode] = []

    def enter(self, _attention: nn.Module, _inputs: tuple[Any, ...]) -> None:
        """Forward pre-hook."""
        self.take_off_the_interrupted()
        if self.capture.listens():
            mode = _AttentionMode(self.capture.hear(self.index), self.capture.heads(self.index))
            mode.__enter__()  # type: ignore[no-untyped-call]
            self.entered.append(mode)

    def leave(self, _attention: nn.Module, _inputs: tuple[Any, ...], _output: Any) -> None:
        """Forward hook, called after an exception too, but not after a KeyboardInterrupt."""
        if self.entered:
            self.entered.pop().__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def take_off_the_interrupted(self) -> None:
        """Leave what a KeyboardInterrupt did not let it leave."""
        while self.entered:
            mode = self.entered.pop()
            mode.heard = None
            if _get_current_function_mode() is mode:
                mode.__exit__(None, None, None)

    def __getstate__(self) -> dict[str, Any]:
        return {"capture": self.capture, "index": self.index, "entered": []}


SOFTMAXES = (torch.softmax, torch.Tensor.softmax, F.softmax)


class _AttentionMode(TorchFunctionMode):
    def __init__(self, heard: list[Captured], heads: "HeadLayout") -> None:
        super().__init__()
        self.heard: list[Captured] | None = heard  # None: its call was interrupted
        self.heads = heads

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward and self.heard is not None:
            with self:
                return audible_multi_head_attention(*args, **kwargs)
        output = func(*args, **kwargs)
        if self.heard is None or not isinstance(output, torch.Tensor) or output.ndim < self.heads.num_axes:
            return output
        if func is F.scaled_dot_product_attention:
            self.heard.append(_query_key(self.heads, *args, **kwargs))
        elif func in SOFTMAXES and _dim(*args, **kwargs) in (-1, output.ndim - 1):
            scores = self.heads.four_axes(args[0] if args else kwargs["input"])
            mask = may_see(scores).any(dim=1, keepdim=True)
            self.heard.append(StoredMap(self.heads.four_axes(output), mask, scores.dtype))
        return output


def _dim(input: torch.Tensor, dim: int | None = None, *_: Any, **__: Any) -> int | None:
    return dim


def _query_key(
    heads: HeadLayout,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> QueryKey:
    moved = query.ndim != 4 or (heads.axis is not None and heads.axis % query.ndim != 1)
    if attn_mask is not None and moved:
        attn_mask = heads.four_axes(attn_mask.expand(*query.shape[:-1], key.shape[-2]))
    query, key = heads.four_axes(query), heads.four_axes(key)
    if key.shape[1] != query.shape[1]:  # grouped heads, or one key for all
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    return QueryKey(query, key, scale, attn_mask, is_causal)
