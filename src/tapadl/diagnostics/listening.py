"""Attention as a model computes it, one call at a time: nothing of a layer is kept once it is read."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from tapadl.attach.capture import AttentionCapture
from tapadl.attach.site import Site, select_sites
from tapadl.diagnostics.rows import Rows
from tapadl.ops.precision import without_autocast

NamedSite = tuple[str, Site]
Images = torch.Tensor | Iterable[torch.Tensor]
Measured = tuple[tuple[Any, ...], torch.Tensor]  # what was measured, and the mean of its numbers

# Blocks whose class token alone attends. The loss is deaf to them: one row has no other to differ from.
_CLASS_ATTENTION = {"timm.models.cait.LayerScaleBlockClassAttn", "timm.models.xcit.ClassAttentionBlock"}


def loss_sites(
    model: nn.Module, blocks: Sequence[int] | None, sites: Sequence[Site] | None
) -> list[NamedSite]:
    """The sites that `AttentionDiversificationLoss` would listen to, each with the name of its block.

    Raises:
        ValueError: If no site is found, an index is out of range, or a site is not one softmax over tokens.
    """
    # An attention that several blocks share is heard once a call, not once a block and call.
    chosen = {site.attention: (name, site) for name, site in select_sites(model, sites, blocks)}
    for name, site in chosen.values():
        if site.refuses_adl:
            raise ValueError(
                f"no attention map at {name}: {site.refuses_adl}; leave it out with blocks=[...]"
            )
    return list(chosen.values())


def every_site(
    model: nn.Module, blocks: Sequence[int] | None, sites: Sequence[Site] | None
) -> list[NamedSite]:
    """The same and, unless some are chosen, the class attention behind them (CaiT, FAN)."""
    chosen = loss_sites(model, blocks, sites)
    if blocks is not None or sites is not None:
        return chosen
    grid = chosen[-1][1].grid
    return chosen + [
        (name, Site(block, block.attn, block.norm1, num_prefix_tokens=1, grid=grid))
        for name, block in model.named_modules()
        if any(f"{base.__module__}.{base.__name__}" in _CLASS_ATTENTION for base in type(block).__mro__)
    ]


@torch.no_grad()
def listen(
    model: nn.Module, images: Any, sites: Sequence[NamedSite], receive: Callable[[int, Rows], None]
) -> None:
    """Run a model once, in evaluation mode, and hand over every attention while it computes the next.

    Fused kernels stay on; the model keeps its mode, its statistics and its hooks.

    Args:
        model: A model with these sites.
        images: What the model takes, on its device.
        sites: Where to listen.
        receive: Called with the index of a site and what it computed, in order of the calls, without
            gradients and without autocast.

    Raises:
        RuntimeError: If a site computed no attention.
    """
    capture = AttentionCapture(model, [site for _, site in sites], without_grad=True)
    heard: set[int] = set()

    def read(_attention: nn.Module, _inputs: tuple[Any, ...], _output: Any) -> None:
        for index, calls in enumerate(capture.take()):
            for call in calls:
                heard.add(index)
                rows = Rows(call)
                with without_autocast(rows.like.device):
                    receive(index, rows)

    # behind the hooks of the capture, which put what a site computed where `take` finds it
    handles = [site.attention.register_forward_hook(read) for _, site in sites]
    try:
        with evaluation_mode(model):
            model(images)
    finally:
        for handle in handles:
            handle.remove()
        capture.close()
    for index, (name, _) in enumerate(sites):
        if index not in heard:
            raise RuntimeError(
                f"expected the attention at {name} of {type(model).__name__} to compute a softmax, got none; "
                f"leave this block out with blocks=[...]"
            )


def mean_over_batches(
    images: Images, measure: Callable[[torch.Tensor], list[Measured]]
) -> tuple[list[Measured], int]:
    """Numbers of several batches, averaged over their images, and how many images there were.

    Raises:
        ValueError: If there is no image, or a batch has other layers or numbers of tokens than the first.
    """
    total: list[Measured] = []
    num_images = 0
    for batch in _batches(images):
        found = measure(batch)
        if num_images and [what for what, _ in found] != [what for what, _ in total]:
            raise ValueError(
                "expected batches of images of one size, got batches with other numbers of tokens; measure "
                "each size by itself"
            )
        sums = [len(batch) * numbers for _, numbers in found]
        if num_images:
            sums = [before + new for (_, before), new in zip(total, sums, strict=True)]
        total = [(what, numbers) for (what, _), numbers in zip(found, sums, strict=True)]
        num_images += len(batch)
    return [(what, numbers / num_images) for what, numbers in total], num_images


def _batches(images: Images) -> Iterator[torch.Tensor]:
    """The batches of images: a tensor is one.

    Raises:
        ValueError: If there is no image.
    """
    empty = True
    for batch in [images] if isinstance(images, torch.Tensor) else images:
        if not isinstance(batch, torch.Tensor) or batch.ndim == 0:
            raise ValueError(
                f"expected images as a tensor (B, C, H, W) or as batches of such tensors, got a batch that "
                f"is a {type(batch).__name__}"
            )
        if len(batch):
            empty = False
            yield batch
    if empty:
        raise ValueError("expected at least one image, got none")


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; afterwards every module is in the mode it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
