"""TAP inside a model that already exists: in with `attach_tap`, out with `detach_tap`."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeVar, cast, get_args

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from tapadl.attach.grid_recorder import GridRecorder
from tapadl.attach.recomputation import recomputing, statistics_left_alone
from tapadl.attach.site import MapLayout, MeasuredGrid, SequenceGrid, Site, select_sites
from tapadl.nn import TokenAwareAveragePooling

Model = TypeVar("Model", bound=nn.Module)


class AttachedTAP(TokenAwareAveragePooling):
    """The TAP module of one block of a model, with what it must know about that model."""

    def __init__(
        self,
        site_name: str,
        num_prefix_tokens: int,
        grid: tuple[int, ...] | GridRecorder | MapLayout | SequenceGrid,
        **options: Any,
    ):
        if isinstance(grid, SequenceGrid):
            options |= {"ndim": 1, "causal": grid.causal}
        elif isinstance(grid, tuple):
            options |= {"ndim": len(grid)}
        super().__init__(**options)
        self.site_name = site_name
        self.num_prefix_tokens = num_prefix_tokens
        self.grid = grid
        self._padding: tuple[torch.Tensor | None] | None = None  # while the block is called
        # Kept for copies in another process: unpickled, they keep the numbers of these hooks from new ones.
        self.handles: list[RemovableHandle] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> "AttachedTAP":
        if not memo:  # the copy of a model or block notes that first
            raise RuntimeError(
                "a copy of TAP without its block would never run; for PEFT put dilation_predictor, not tap, "
                "into modules_to_save"
            )
        memo[id(self)] = copied = type(self).__new__(type(self))
        copied.__setstate__(copy.deepcopy(self.__dict__, memo))  # type: ignore[no-untyped-call]
        return copied

    @property
    def options(self) -> dict[str, Any]:
        """What `attach_tap` was asked for."""
        init = "paper" if self.gate is None else "identity"
        return {"num_branches": self.num_branches, "temperature": self.temperature, "init": init}

    def fits(self, site: Site) -> bool:
        """Whether it was made for the grid and the prefix tokens of this site."""
        if self.num_prefix_tokens != site.num_prefix_tokens:
            return False
        if isinstance(self.grid, GridRecorder):
            return isinstance(site.grid, MeasuredGrid) and self.grid.measure == site.grid.measure
        return self.grid == site.grid

    def before_block(self, _block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the block of a sequence: keeps where it is padded."""
        if isinstance(self.grid, SequenceGrid) and self.grid.padding is not None:
            self._padding = (self.grid.padding(args, kwargs),)

    def after_block(self, _block: nn.Module, _args: tuple[Any, ...], _output: Any) -> None:
        """Forward hook of the block of a sequence: what was padded in this call is not in the next."""
        self._padding = None

    def before_norm(self, _norm: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Forward pre-hook of the norm: hands it the pooled tokens, while the residual keeps the others."""
        if getattr(_norm, "_is_replica", False):
            raise RuntimeError(
                "nn.DataParallel runs copies of the model that share one TAP; use "
                "torch.nn.parallel.DistributedDataParallel"
            )
        return self.pool(inputs[0]), *inputs[1:]

    def pool(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (B, N, C), or a map in the layout of the site, after pooling."""
        if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            raise RuntimeError(
                "torch.jit.trace would fix the grid of TAP in silence; use torch.export instead"
            )
        if recomputing():
            with statistics_left_alone(cast(nn.BatchNorm2d, self.dilation_predictor.proj[1])):
                return self._pool(tokens)
        return self._pool(tokens)

    def _pool(self, tokens: torch.Tensor) -> torch.Tensor:
        if isinstance(self.grid, SequenceGrid):
            length = tokens.shape[1] - self.num_prefix_tokens
            if self.grid.padding is not None and self._padding is None:
                raise RuntimeError(
                    f"expected the block at {self.site_name} to be called as a module, for its arguments say "
                    f"what is padded; checkpoint whole blocks, not parts of them"
                )
            mask = None if self._padding is None else self._padding[0]
            pooled_sequence: torch.Tensor = self(tokens, (length,), self.num_prefix_tokens, mask)
            return pooled_sequence
        if self.grid not in get_args(MapLayout):
            pooled: torch.Tensor = self(tokens, self._grid_of(tokens), self.num_prefix_tokens)
            return pooled
        if tokens.ndim != 4:
            raise RuntimeError(
                f"expected a map of tokens in the layout {self.grid} in front of {self.site_name}, "
                f"got {tuple(tokens.shape)}"
            )
        token_map = tokens if self.grid == "NHWC" else tokens.permute(0, 2, 3, 1)
        grid_size = (token_map.shape[1], token_map.shape[2])
        pooled_map: torch.Tensor = self(token_map.flatten(1, 2), grid_size).unflatten(1, grid_size)
        return pooled_map if self.grid == "NHWC" else pooled_map.permute(0, 3, 1, 2)

    def _grid_of(self, tokens: torch.Tensor) -> tuple[int, ...]:
        if not isinstance(self.grid, GridRecorder):
            return cast(tuple[int, ...], self.grid)
        num_patches = tokens.shape[1] - self.num_prefix_tokens
        grid_size = self.grid.grid_of(num_patches)
        if grid_size is None:
            raise RuntimeError(
                f"TAP at {self.site_name} got {tokens.shape[1]} tokens ({self.num_prefix_tokens} of them "
                f"prefix), but no image with {num_patches} patches went through the patch embedding, which "
                f"must be called as a module; no token may be dropped between it and TAP"
            )
        return grid_size


class PooledEntry:
    """A method of a block that pools its tokens first; it stands in front of the method of the class."""

    def __init__(self, tap: AttachedTAP, owner: nn.Module, method: str) -> None:
        self.tap = tap
        self.owner = owner
        self.method = method

    def __call__(self, tokens: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """What the method gives for the pooled tokens."""
        return getattr(type(self.owner), self.method)(self.owner, self.tap.pool(tokens), *args, **kwargs)


def attach_tap(
    model: Model,
    num_branches: int = 4,
    temperature: float = 1.0,
    init: Literal["paper", "identity"] = "paper",
    blocks: Sequence[int] | None = None,
    sites: Sequence[Site] | None = None,
) -> Model:
    """Put Token-aware Average Pooling in front of the attention of a model, in place.

    Every chosen block computes `tokens + attention(norm(TAP(tokens)))`; the residual keeps the tokens as
    they are. The block gains the parameters `tap.*`, on its device and in its dtype; all other names in the
    state_dict stay. Blocks that have TAP already are left alone. Build the optimizer afterwards, and wrap the
    model in DistributedDataParallel or shard it afterwards: they know the parameters they were given.

    Args:
        model: A vision transformer of timm, torchvision or transformers, a module that holds one, or a model
            with `attention_sites()`.
        num_branches: K; branch 0 is the token itself, branch d its 3 x 3 neighbourhood at dilation d.
        temperature: Divides the logits of the branch weights.
        init: `"paper"`, or `"identity"` for a pretrained model: its output does not change by one bit at
            first, and TAP grows in through a learned gate.
        blocks: Indices of the sites to use, in order of the model; None for all.
        sites: The sites themselves, for a model of one's own.

    Returns:
        The same model.

    Raises:
        ValueError: If no site is found, an index or option is out of range, a site refuses TAP, or a block
            has TAP with other options.

    Source:
        Guo, Stutz, Schiele, ICCV 2023; the official models build it into each block.

    Example:
        >>> import timm, tapadl
        >>> model = tapadl.attach_tap(timm.create_model("vit_tiny_patch16_224", depth=2))
        >>> model(torch.zeros(1, 3, 224, 224)).shape
        torch.Size([1, 1000])
        >>> sorted({name.split(".")[2] for name, _ in model.named_parameters() if ".tap." in name})
        ['tap']
    """
    options = {"num_branches": num_branches, "temperature": temperature, "init": init}
    chosen = select_sites(model, sites, blocks)
    _check(model, chosen, options)
    recorders: dict[MeasuredGrid, GridRecorder] = {}
    added: list[tuple[Site, AttachedTAP]] = []
    for name, site in chosen:
        if _tap_of(site.block) is None:
            grid = _grid_source(site.grid, recorders)
            tap = AttachedTAP(name, site.num_prefix_tokens, grid, dim=_width(name, site), **options)
            like = next(_floating(site.block, model), torch.empty(0))
            added.append((site, tap.to(like.device, like.dtype).train(site.block.training)))
    if added:
        _check_unwrapped(model)
    for source, recorder in recorders.items():
        recorder.handle = source.module.register_forward_pre_hook(recorder.record)
    for site, tap in added:
        site.block.add_module("tap", tap)
        if isinstance(site.grid, SequenceGrid):
            tap.handles += [
                site.block.register_forward_pre_hook(tap.before_block, with_kwargs=True),
                site.block.register_forward_hook(tap.after_block, always_call=True),
            ]
        if site.entry == "forward":
            tap.handles.append(site.norm.register_forward_pre_hook(tap.before_norm))
        else:
            setattr(site.norm, site.entry, PooledEntry(tap, site.norm, site.entry))
            # without hooks, torch's kernel for a whole TransformerEncoderLayer would leave TAP out
            tap.handles.append(tap.register_forward_pre_hook(_change_nothing))
    return model


def detach_tap(model: Model) -> Model:
    """Take all TAP modules out of a model again: its output and state_dict are what they were, bit for bit.

    Args:
        model: A model with TAP; one without is left alone.

    Returns:
        The same model.

    Example:
        >>> import timm, tapadl
        >>> model = timm.create_model("vit_tiny_patch16_224", depth=2)
        >>> keys = list(model.state_dict())
        >>> list(tapadl.detach_tap(tapadl.attach_tap(model)).state_dict()) == keys
        True
    """
    for module in list(model.modules()):
        for hook_id, hook in list(module._forward_pre_hooks.items()):
            if isinstance(getattr(hook, "__self__", None), AttachedTAP | GridRecorder):
                del module._forward_pre_hooks[hook_id]
                module._forward_pre_hooks_with_kwargs.pop(hook_id, None)
        for hook_id, after in list(module._forward_hooks.items()):
            if isinstance(getattr(after, "__self__", None), AttachedTAP):
                del module._forward_hooks[hook_id]
                module._forward_hooks_always_called.pop(hook_id, None)
        for name, value in list(vars(module).items()):
            if isinstance(value, PooledEntry):
                delattr(module, name)
        if _tap_of(module) is not None:
            del module.tap
    return model


def _floating(*modules: nn.Module) -> Iterator[torch.Tensor]:
    """The parameters that are not quantised."""
    return (p for module in modules for p in module.parameters() if p.dtype.is_floating_point)


def _check_unwrapped(model: nn.Module) -> None:
    # of the sharded parameters of fully_shard, whose class takes long to import
    sharded = any(hasattr(parameter, "device_mesh") for parameter in model.parameters())
    wrappers = ("DistributedDataParallel", "FullyShardedDataParallel")
    if sharded or any(base.__name__ in wrappers for part in model.modules() for base in type(part).__mro__):
        raise ValueError(
            "expected a model that is not yet sharded or wrapped in DistributedDataParallel, which would "
            "leave the parameters of TAP out; call attach_tap before"
        )


def _change_nothing(_module: nn.Module, _inputs: tuple[Any, ...]) -> None:
    """A hook that is only there."""


def _tap_of(block: nn.Module) -> AttachedTAP | None:
    tap = getattr(block, "tap", None)
    return tap if isinstance(tap, AttachedTAP) else None


def _check(model: nn.Module, chosen: list[tuple[str, Site]], options: dict[str, Any]) -> None:
    parts = set(model.modules())
    blocks: set[nn.Module] = set()
    norms: set[tuple[nn.Module, str]] = set()
    for name, site in chosen:
        if site.block in blocks or (site.norm, site.entry) in norms:
            raise ValueError(f"expected a block and a norm of its own of every site, {name} shares one")
        blocks.add(site.block)
        norms.add((site.norm, site.entry))
        if site.norm not in parts:
            raise ValueError(
                f"expected the norm of the site at {name} to be a part of {type(model).__name__}, "
                f"got a {type(site.norm).__name__} from elsewhere"
            )
        if isinstance(site.block, nn.Sequential | nn.ModuleList):
            raise ValueError(
                f"expected the block of the site at {name} to be no {type(site.block).__name__}, which would "
                f"take TAP for one of its steps; name the attention itself as the block"
            )
        if site.refuses_tap:
            raise ValueError(
                f"TAP does not fit {name}: {site.refuses_tap}; "
                f"tapadl.describe(model) shows the sites it fits, if any, to choose with blocks=[...]"
            )
        if getattr(site.attention, "batch_first", True) is False:
            raise ValueError(
                f"expected tokens (B, N, C) at {name}, got an attention with batch_first=False, whose tokens "
                f"are (N, B, C); build it with batch_first=True"
            )
        if isinstance(site.norm, nn.MultiheadAttention) and site.entry == "forward":
            raise ValueError(
                f"expected the norm in front of nn.MultiheadAttention at {name}, got the attention itself, "
                f"where TAP would pool the query alone; name the norm, or as entry the method that calls it"
            )
        tap = _tap_of(site.block)
        if tap is None and hasattr(site.block, "tap"):
            raise ValueError(
                f"expected {name} to have no attribute 'tap' of its own, got {type(site.block.tap)}"
            )
        if tap is not None and not tap.fits(site):
            raise ValueError(
                f"{name} has TAP for another grid or number of prefix tokens; "
                f"call tapadl.detach_tap(model) first"
            )
        was = options if tap is None else tap.options
        if was != options:
            raise ValueError(
                f"{name} has TAP with {was}, asked for {options}; call tapadl.detach_tap(model) first"
            )


def _width(name: str, site: Site) -> int:
    """Channels of the tokens: of the norm, or, where the attention is hooked itself, of its projection."""
    for module in (site.norm, *site.attention.modules()):
        for attribute in ("normalized_shape", "dim", "in_features", "in_channels", "weight"):
            found = getattr(module, attribute, None)
            shape = found.shape if isinstance(found, torch.Tensor) else found
            if shape is not None:
                return int(shape if isinstance(shape, int) else shape[-1])
    raise ValueError(
        f"cannot tell the width of the tokens at {name} from its norm {type(site.norm).__name__}"
    )


def _grid_source(
    grid: tuple[int, ...] | MeasuredGrid | MapLayout | SequenceGrid,
    new_recorders: dict[MeasuredGrid, GridRecorder],
) -> tuple[int, ...] | GridRecorder | MapLayout | SequenceGrid:
    if not isinstance(grid, MeasuredGrid):
        return grid
    for hook in grid.module._forward_pre_hooks.values():
        owner = getattr(hook, "__self__", None)
        if isinstance(owner, GridRecorder) and owner.measure == grid.measure:
            return owner
    return new_recorders.setdefault(grid, GridRecorder(grid.measure))
