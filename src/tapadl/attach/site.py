"""Where a model attends: the sites TAP goes in front of and ADL listens to."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from torch import nn

from tapadl.ops.numbers import is_integer

GridMeasure = Callable[[nn.Module, tuple[Any, ...]], tuple[int, int]]
MapLayout = Literal["NHWC", "NCHW"]
PaddingMeasure = Callable[[tuple[Any, ...], dict[str, Any]], torch.Tensor | None]

# Libraries with an adapter: the first part of a class's module name -> the file in this folder.
ADAPTERS = {
    "timm": "tapadl.attach.timm",
    "torchvision": "tapadl.attach.torchvision",
    "transformers": "tapadl.attach.transformers",
}
SUPPORTED = (
    "transformers' ViT, DeiT, DINOv2, DINOv3, BEiT, Swin, SegFormer, CLIP and SigLIP (their vision towers), "
    "torchvision's VisionTransformer, SwinTransformer and MaxVit"
)


@dataclass(frozen=True)
class MeasuredGrid:
    """A grid that is read anew in every forward, from the input of `module`.

    Args:
        module: The module whose call shows the grid, before the tokens reach TAP: the patch embedding, or a
            block that is told the grid.
        measure: `(module, inputs) -> (rows, cols)`, the inputs being the positional arguments of the call; a
            plain function, so that models stay copyable.
    """

    module: nn.Module
    measure: GridMeasure

    def __post_init__(self) -> None:
        if not isinstance(self.module, nn.Module) or not callable(self.measure):
            raise ValueError(
                f"expected MeasuredGrid of a module and a function, got a {type(self.module).__name__} and a "
                f"{type(self.measure).__name__}"
            )


@dataclass(frozen=True)
class SequenceGrid:
    """The grid of tokens that are a sequence, such as text, of any length.

    Args:
        causal: Whether the attention is causal; TAP then takes in no later token.
        padding: `(args, kwargs) -> padding_mask`, (B, N) bool and True at padding, or None, from the
            arguments of a call of the block; a plain function, so that models stay copyable. None where
            tokens are never padded.
    """

    causal: bool = False
    padding: PaddingMeasure | None = None

    def __post_init__(self) -> None:
        if self.padding is not None and not callable(self.padding):
            raise ValueError(f"expected padding to be a function or None, got {type(self.padding).__name__}")


@dataclass(frozen=True)
class Site:
    """One self-attention of a model, as an adapter describes it.

    Args:
        block: The block that owns the attention; TAP becomes its child `tap`.
        attention: The module in which softmax attention is computed.
        norm: The module whose first argument TAP pools: the norm in front of the attention, or the attention
            itself where the norm comes after it. What it is called with must feed nothing but the attention.
        num_prefix_tokens: Class, distillation and register tokens in front of the patches.
        grid: The fixed (rows, cols) of the patches, or a MeasuredGrid, for tokens (B, N, C); "NHWC" or "NCHW"
            where `norm` is called with a map; for a sequence the fixed (length,) or a
            SequenceGrid.
        refuses_tap: Why TAP does not fit here; empty where it does.
        refuses_adl: Why ADL has no meaning here; empty where it has.
        entry: The method of `norm` that takes the tokens, "forward" for a module that is called. A block that
            cuts its tokens into windows between the residual and the attention does it in such a method.
        head_axis: Where the heads stand in query (..., N, D) and map (..., N, M); what else stands in front,
            windows for example, counts as batch. None where they are folded into the batch: query
            (B H, N, D), with H the `num_heads` of the attention, or 1 if it has no such attribute.
    """

    block: nn.Module
    attention: nn.Module
    norm: nn.Module
    num_prefix_tokens: int
    grid: tuple[int, ...] | MeasuredGrid | MapLayout | SequenceGrid
    refuses_tap: str = ""
    refuses_adl: str = ""
    entry: str = "forward"
    head_axis: int | None = -3

    def __post_init__(self) -> None:
        for name in ("block", "attention", "norm"):
            if not isinstance(getattr(self, name), nn.Module):
                raise ValueError(
                    f"expected {name} of a Site to be a module, got a {type(getattr(self, name)).__name__}"
                )
        if not is_integer(self.num_prefix_tokens) or self.num_prefix_tokens < 0:
            raise ValueError(
                f"expected num_prefix_tokens to be an integer of at least 0, got {self.num_prefix_tokens!r}"
            )
        if not isinstance(self.entry, str) or not callable(getattr(type(self.norm), self.entry, None)):
            raise ValueError(
                f"expected entry to name a method of {type(self.norm).__name__}, got {self.entry!r}"
            )
        if self.head_axis is not None and not is_integer(self.head_axis):
            raise ValueError(f"expected head_axis to be an integer or None, got {self.head_axis!r}")
        if not isinstance(self.grid, MeasuredGrid | SequenceGrid) and self.grid not in get_args(MapLayout):
            _check_fixed(self.grid)


def _check_fixed(grid: Any) -> None:
    sides = grid if isinstance(grid, tuple) else ()
    if len(sides) not in (1, 2) or not all(is_integer(side) and side > 0 for side in sides):
        raise ValueError(
            f'expected grid to be (rows, cols), (length,), a MeasuredGrid, a SequenceGrid, "NHWC" or "NCHW", '
            f"got {grid!r}"
        )


def find_sites(model: nn.Module) -> list[Site]:
    """The attention sites of a model, in order of its blocks.

    A model, or a part of it, that offers `attention_sites()` is asked first; then each part is shown to
    the adapter of the library its class comes from. Wrappers (DistributedDataParallel, a compiled model,
    `nn.Sequential`) are looked into.

    Raises:
        ValueError: If no part of the model is known; says what was looked for.
    """
    # A block that a model runs twice (shared weights) is one site.
    sites = list({(site.block, site.attention, site.norm): site for site in _sites_in(model)}.values())
    if not sites:
        raise ValueError(
            f"found no attention to work on in {type(model).__module__}.{type(model).__qualname__}: "
            f"supported are timm's vision transformers, {SUPPORTED}, models that have a method "
            f"attention_sites(), and modules that hold one of these; for any other transformer pass "
            f"sites=[tapadl.Site(...), ...]"
        )
    return sites


def select_sites(
    model: nn.Module, sites: Sequence[Site] | None, blocks: Sequence[int] | None
) -> list[tuple[str, Site]]:
    """The chosen sites, each with the name of its block for messages."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"expected a model (a torch.nn.Module), got {type(model).__name__}")
    if sites is not None and not isinstance(sites, Sequence):
        raise ValueError(f"expected sites to be a list of tapadl.Site, got {type(sites).__name__}")
    found = list(sites) if sites is not None else find_sites(model)
    if not all(isinstance(site, Site) for site in found):
        raise ValueError(f"expected sites to hold tapadl.Site, got {[type(site).__name__ for site in found]}")
    if not found:
        raise ValueError("expected at least one tapadl.Site in sites, got none")
    for index in _checked_list(blocks):
        if not -len(found) <= index < len(found):
            raise ValueError(
                f"expected blocks to hold indices of the {len(found)} sites of {type(model).__name__}, "
                f"got {index}"
            )
    if blocks is not None and len(blocks) == 0:
        raise ValueError("expected blocks to name at least one site (None means all), got an empty list")
    chosen = range(len(found)) if blocks is None else sorted({index % len(found) for index in blocks})
    names = {id(module): name for name, module in model.named_modules()}
    for index, site in enumerate(found):
        if id(site.block) not in names or id(site.attention) not in names:
            raise ValueError(
                f"expected block and attention of site {index} to be parts of {type(model).__name__}, got a "
                f"{type(site.block).__name__} and a {type(site.attention).__name__}"
            )
    return [
        (
            names.get(id(found[index].block)) or f"site {index} ({type(found[index].block).__name__})",
            found[index],
        )
        for index in chosen
    ]


def _checked_list(blocks: Sequence[int] | None) -> Sequence[int]:
    if blocks is None:
        return ()
    if not isinstance(blocks, Sequence) or not all(isinstance(index, int) for index in blocks):
        raise ValueError(f"expected blocks to be a list of whole numbers, such as [0, -1], got {blocks!r}")
    return blocks


def _sites_in(part: nn.Module) -> list[Site]:
    """The sites of the outermost parts that know theirs."""
    return _own_sites(part) or [site for child in part.children() for site in _sites_in(child)]


def _own_sites(part: nn.Module) -> list[Site]:
    own = getattr(part, "attention_sites", None)
    if callable(own):
        sites = list(own())
        if not all(isinstance(site, Site) for site in sites):
            raise ValueError(
                f"expected attention_sites() of {type(part).__name__} to give tapadl.Site, got "
                f"{', '.join(sorted({type(site).__name__ for site in sites}))}"
            )
        return sites
    for base in type(part).__mro__:
        adapter = ADAPTERS.get(base.__module__.partition(".")[0])
        if adapter is not None:
            return cast(list[Site], importlib.import_module(adapter).sites(part))
    return []
