"""Sites of timm's vision transformers, found by the classes of their blocks (`timm_blocks`)."""

from collections.abc import Callable, Iterator
from typing import Any

from timm.models.vision_transformer import ParallelThingsBlock
from torch import nn

from tapadl.attach.convolution import convolved_grid
from tapadl.attach.site import MapLayout, MeasuredGrid, Site
from tapadl.attach.timm_blocks import KINDS, REFUSALS, BlockKind


def sites(part: nn.Module) -> list[Site]:
    """The sites of a timm model, one a block; none where `part` is not a transformer of timm.

    Class-attention blocks, and attention that shrinks the map without a residual, are no sites.

    Raises:
        ValueError: If the model mixes its tokens in a way that neither TAP nor ADL fits; says which.
    """
    found = [_site(kind, block, owners) for kind, block, owners in _blocks(part, ())]
    if not found:
        _refuse(part)
    return [site for site in found if site is not None]


Owners = tuple[tuple[str, nn.Module], ...]


def _blocks(part: nn.Module, owners: Owners) -> Iterator[tuple[BlockKind, nn.Module, Owners]]:
    """The outermost known blocks of a part in order, each with the modules around it, the nearest last."""
    kind = _looked_up(KINDS, part)
    if isinstance(part, ParallelThingsBlock):
        for branch in part.attns:
            yield BlockKind(norm="norm"), branch, owners
    elif isinstance(kind, BlockKind):
        yield kind, part, owners
    else:
        for name, child in part.named_children():
            yield from _blocks(child, (*owners, (name, part)))


def _looked_up(table: dict[str, Any], part: nn.Module) -> Any:
    for base in type(part).__mro__:
        _, _, module = base.__module__.partition("timm.models.")
        if f"{module}.{base.__name__}" in table:
            return table[f"{module}.{base.__name__}"]
    return None


def _site(kind: BlockKind, block: nn.Module, owners: Owners) -> Site | None:
    attention = _inside(block, kind.attention)
    norm = _inside(block, kind.norm)
    if attention is None or norm is None or not kind.attends(attention):
        return None  # a convolutional block of a model that has both
    grid, num_prefix_tokens = _grid(kind, block, owners)
    return Site(
        # what is added to an nn.Sequential would be run as its last step
        block=attention if isinstance(block, nn.Sequential) else block,
        attention=attention,
        norm=norm,
        num_prefix_tokens=num_prefix_tokens,
        grid=grid,
        refuses_tap=kind.no_tap(block) or _drops_patches(owners),
        refuses_adl=kind.no_adl(block),
        entry=kind.entry,
        head_axis=kind.head_axis,
    )


def _inside(block: nn.Module, path: str) -> nn.Module | None:
    module: nn.Module | None = block
    for name in path.split(".") if path else ():
        module = getattr(module, name, None)
    return module


def _drops_patches(owners: Owners) -> str:
    if any(not isinstance(getattr(owner, "patch_drop", None), nn.Identity | None) for _, owner in owners):
        return "patch dropout leaves no grid to pool on; build the model with patch_drop_rate=0"
    return ""


def _grid(kind: BlockKind, block: nn.Module, owners: Owners) -> tuple[MeasuredGrid | MapLayout, int]:
    """Where the grid of a block shows, and the number of prefix tokens in front of its patches."""
    if kind.grid in ("NHWC", "NCHW"):
        return kind.grid, 0
    of_model = _prefix_of_model(owners)
    own = kind.num_prefix_tokens(block) if callable(kind.num_prefix_tokens) else kind.num_prefix_tokens
    num_prefix_tokens = of_model if own is None else own
    if callable(kind.grid):
        return MeasuredGrid(block, kind.grid), num_prefix_tokens
    for depth, (_, owner) in reversed(list(enumerate(owners))):
        found = _looked_up(GRIDS, owner)
        if found is not None:
            path = [name for name, _ in owners[depth:]]
            grid, own_prefix = found(owner, path)
            return grid, num_prefix_tokens if own_prefix is None else own_prefix
        patch_embed = getattr(owner, "patch_embed", None)
        tells = hasattr(patch_embed, "dynamic_feat_size") or kind.no_tap(block)
        if isinstance(patch_embed, nn.Module) and tells:
            return MeasuredGrid(patch_embed, embedded_patches), num_prefix_tokens
    raise ValueError(
        f"found a {type(block).__name__} of timm but no patch embedding around it that tells the grid; "
        f"pass the whole model, or sites=[tapadl.Site(...), ...]"
    )


def _prefix_of_model(owners: Owners) -> int:
    for _, owner in reversed(owners):
        class_token = getattr(owner, "cls_token", None)
        of_class_token = None if class_token is None else class_token.shape[1]
        found: int | None = getattr(owner, "num_prefix_tokens", of_class_token)
        if found is not None:
            return found
    return 0


def embedded_patches(patch_embed: nn.Module, inputs: tuple[Any, ...]) -> tuple[int, int]:
    """The grid of patches that `patch_embed` makes of the images (B, C, H, W) in its inputs."""
    rows, cols = patch_embed.dynamic_feat_size(tuple(inputs[0].shape[-2:]))  # type: ignore[operator]
    return rows, cols


def _cut_patches(patch_embed: nn.Module, inputs: tuple[Any, ...]) -> tuple[int, int]:
    size: Any = patch_embed.patch_size
    height, width = size if isinstance(size, tuple) else (size, size)
    images = _checked_images(inputs)
    return images.shape[-2] // height, images.shape[-1] // width


def _naflex_patches(embeds: nn.Module, inputs: tuple[Any, ...]) -> tuple[int, int]:
    return embedded_patches(embeds, (_checked_images(inputs),))


def _checked_images(inputs: tuple[Any, ...]) -> Any:
    images = inputs[0]
    if getattr(images, "ndim", 0) != 4:
        raise ValueError(
            "TAP expects images (B, C, H, W), all of one size; got patches cut beforehand, whose grids differ"
        )
    return images


def _map_sides(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[int, int]:
    return inputs[0].shape[-2], inputs[0].shape[-1]


def _first_map_sides(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[int, int]:
    return _map_sides(_module, inputs[0])


def _unfolded(block: nn.Module, inputs: tuple[Any, ...]) -> tuple[int, int]:
    (height, width), sides = block.patch_size, _map_sides(block, inputs)  # type: ignore[misc]
    return -(-sides[0] // height), -(-sides[1] // width)


def _pit(stage: Any, _path: list[str]) -> tuple[MeasuredGrid, int | None]:
    if stage.pool is None:
        return MeasuredGrid(stage, _first_map_sides), None
    return MeasuredGrid(stage.pool.conv, convolved_grid), None


def _metaformer(stage: Any, _path: list[str]) -> tuple[MeasuredGrid, int | None]:
    if isinstance(stage.downsample, nn.Identity):
        return MeasuredGrid(stage, _map_sides), None
    return MeasuredGrid(stage.downsample.conv, convolved_grid), None


def _efficientformer(stage: Any, _path: list[str]) -> tuple[MeasuredGrid, int | None]:
    flat = next(module for module in stage.modules() if type(module).__name__ == "Flat")
    return MeasuredGrid(flat, _map_sides), None


def _crossvit(model: Any, path: list[str]) -> tuple[MeasuredGrid, int | None]:
    branch = int(path[3])  # blocks.DEPTH.blocks.BRANCH.INDEX
    return MeasuredGrid(model.patch_embed[branch], _cut_patches), 1


# Modules around a block that tell its grid in another way than by `patch_embed.dynamic_feat_size`:
# class -> (module, names from it to the block) -> grid and prefix tokens (None: those of the model).
GRIDS: dict[str, Callable[[Any, list[str]], tuple[MeasuredGrid, int | None]]] = {
    "crossvit.CrossVit": _crossvit,
    "efficientformer.EfficientFormerStage": _efficientformer,
    "gemma4_vit.Gemma4VitEncoder": lambda model, _: (MeasuredGrid(model.patch_embed, _cut_patches), None),
    "metaformer.MetaFormerStage": _metaformer,
    "mobilevit.MobileVitBlock": lambda block, _: (MeasuredGrid(block, _unfolded), 0),
    "naflexvit.NaFlexVit": lambda model, _: (MeasuredGrid(model.embeds, _naflex_patches), None),
    "pit.Transformer": _pit,
    "tnt.TNT": lambda model, _: (MeasuredGrid(model.pixel_embed, embedded_patches), 1),
}


def _refuse(part: nn.Module) -> None:
    for module in part.modules():
        reason = _looked_up(REFUSALS, module)
        if reason is not None:
            raise ValueError(f"{type(part).__name__} takes neither TAP nor ADL: {reason}")
