"""Weights into a model: all of them, TAP included, or a sentence about what does not fit."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from tapadl.attach import attach_tap
from tapadl.attach.site import select_sites
from tapadl.models.checkpoint import read_state_dict
from tapadl.models.sharing import saved_temperature
from tapadl.nn import TokenAwareAveragePooling

SHOWN = 3
_TAP_KEY = re.compile(r"(?P<block>(?:.+\.)?)tap\.dilation_predictor\.proj\.0\.weight")


@dataclass(frozen=True)
class SavedTAP:
    """What weights tell of the TAP of one block."""

    num_branches: int
    init: Literal["paper", "identity"]


def load_weights(model: nn.Module, path: Path) -> dict[str, str]:
    """Load a checkpoint file into a model, strictly, without running anything that stands in the file.

    Args:
        model: Of the same architecture; TAP is attached where the file has it.
        path: A safetensors file, or what `torch.save` has written.

    Returns:
        Name and sha256 of the file, and what is known of its TAP.

    Raises:
        ValueError: If the file cannot be read, or its weights are not those of the model.
    """
    return load_state(model, read_state_dict(path)[0], path)


def load_state(model: nn.Module, state: Mapping[str, torch.Tensor], path: Path) -> dict[str, str]:
    """`load_weights` with what `path` holds."""
    facts = {"checkpoint": path.name, "checkpoint_sha256": file_sha256(path)}
    own = model.state_dict().keys()
    tap = find_saved_tap({key: value.shape for key, value in state.items() if key not in own})
    temperature = saved_temperature(path)
    if tap:
        attach_saved_tap(model, tap, temperature or 1.0)
        facts["tap"] = tap_in_words(tap, temperature)
    elif temperature is not None:
        for module in model.modules():
            if isinstance(module, TokenAwareAveragePooling):
                module.temperature = temperature
    check_fit(model, state, path.name)
    model.load_state_dict(dict(state))
    return facts


def find_saved_tap(shapes: Mapping[str, Sequence[int]]) -> dict[str, SavedTAP]:
    """The blocks that have TAP, by the names and shapes of their weights."""
    found = {}
    for key, shape in shapes.items():
        if match := _TAP_KEY.fullmatch(key):
            gated = f"{match['block']}tap.gate" in shapes
            found[match["block"].removesuffix(".")] = SavedTAP(shape[0], "identity" if gated else "paper")
    return found


def attach_saved_tap(model: nn.Module, tap: Mapping[str, SavedTAP], temperature: float = 1.0) -> None:
    """Attach TAP to the named blocks; its temperature does not follow from the weights.

    Raises:
        ValueError: If the model has no attention at one of them.
    """
    sites = {name: index for index, (name, _) in enumerate(select_sites(model, None, None))}
    strangers = [block for block in tap if block not in sites]
    if strangers:
        raise ValueError(
            f"expected attention in {type(model).__name__} where the weights have TAP, "
            f"found none at {_in_words(strangers)}"
        )
    for block, saved in tap.items():
        attach_tap(
            model,
            num_branches=saved.num_branches,
            temperature=temperature,
            init=saved.init,
            blocks=[sites[block]],
        )


def tap_in_words(tap: Mapping[str, SavedTAP], temperature: float | None = None) -> str:
    """What a result says about TAP that was found in weights."""
    branches = ", ".join(str(count) for count in sorted({saved.num_branches for saved in tap.values()}))
    told = "taken to be 1" if temperature is None else f"{temperature:g}"
    return f"in {len(tap)} blocks, {branches} branches, temperature {told}"


def check_fit(model: nn.Module, state: Mapping[str, torch.Tensor], file_name: str) -> None:
    """Raise ValueError unless the weights have the names and shapes of the model's."""
    own = {name: value.shape for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    shapes = [
        f"{name} of {tuple(state[name].shape)} for {tuple(shape)}"
        for name, shape in own.items()
        if name in state and state[name].shape != shape
    ]
    differences = {
        "missing": [name for name in own if name not in state],
        "unexpected": [name for name in state if name not in own],
        "of another shape": shapes,
    }
    found = [f"{len(names)} {kind} ({_in_words(names)})" for kind, names in differences.items() if names]
    if found:
        raise ValueError(
            f"expected the weights of this {type(model).__name__} in {file_name}, "
            f"found {', '.join(found)}; name the architecture the file was made with"
        )


def weights_sha256(model: nn.Module) -> str:
    """The sha256 of a model's state_dict: names in order, dtypes, shapes and bytes.

    It does not depend on the file format the weights came in.

    Example:
        >>> layer = nn.Linear(2, 3)
        >>> before = weights_sha256(layer)
        >>> _ = layer.weight.data.neg_()
        >>> weights_sha256(layer) == before
        False
    """
    return state_sha256(model.state_dict())


def state_sha256(state: Mapping[str, torch.Tensor]) -> str:
    """`weights_sha256` of the model that these weights are complete for."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        if isinstance(value, torch.Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _in_words(names: Iterable[str]) -> str:
    """The first few of them."""
    names = list(names)
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
