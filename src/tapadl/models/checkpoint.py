"""Checkpoints of strangers, read without running anything that stands in them."""

import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

# Classes that released checkpoints hold beside their weights. None of them is called: a PlainData stands in.
HARMLESS = (
    "argparse.Namespace",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
)
# Where training scripts put the weights; the average of the weights comes first, as timm has it.
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")


class PlainData:
    """What a pickle says of an object of a harmless class: the arguments and the state, and nothing done."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


def read_state_dict(path: str | Path) -> tuple[dict[str, torch.Tensor], str]:
    """The weights in a file, without the wrappers training scripts put around them.

    Pickles are read by torch's weights-only reader, which calls no class but those of tensors; a few harmless
    classes are allowed by name and become plain data. Prefixes that every key carries (`module.`,
    `_orig_mod.`) are taken off.

    Args:
        path: A `.safetensors` file, or anything that `torch.save` has written.

    Returns:
        The weights by name, and the name of the wrapper they were found in, empty without.

    Raises:
        ValueError: If there is no such file, it is damaged, holds a class that is not known to be harmless,
            holds no weights, or one whose numbers are not in the file.

    Example:
        >>> import argparse, tempfile
        >>> path = Path(tempfile.mkdtemp()) / "checkpoint.pth"
        >>> weights = {"module.head.bias": torch.zeros(3)}
        >>> torch.save({"state_dict": weights, "args": argparse.Namespace(lr=0.1)}, path)
        >>> read_state_dict(path)
        ({'head.bias': tensor([0., 0., 0.])}, 'state_dict')
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"expected a checkpoint at {path}, found {'a folder' if path.is_dir() else 'no file'}"
        )
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    wrapper = next((name for name in WRAPPERS if _holds_weights(_item(content, name))), "")
    weights = content[wrapper] if wrapper else content
    if not _holds_weights(weights):
        raise ValueError(
            f"expected weights in {path.name}, at the top or under one of {', '.join(WRAPPERS)}, "
            f"found {_content_in_words(content)}"
        )
    for name, tensor in weights.items():
        if not _holds_its_numbers(tensor):
            raise ValueError(
                f"expected all {tuple(tensor.shape)} numbers of {name} in {path.name}, found a tensor that "
                f"only describes them ({tensor.layout}, {tensor.dtype} on {tensor.device})"
            )
    for prefix in ("module.", "_orig_mod."):
        if all(key.startswith(prefix) for key in weights):
            weights = {key.removeprefix(prefix): tensor for key, tensor in weights.items()}
    return dict(weights), wrapper


def _read_safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"expected {path.name} to be a whole safetensors file: {error}") from error


def _read_pickle(path: Path) -> Any:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(part.file_size for part in archive.infolist())
            if (
                unpacked > path.stat().st_size
            ):  # torch stores without packing; a small file could fill the memory
                raise ValueError(f"it unpacks to {unpacked} bytes, more than it has")
        with safe_globals([(PlainData, name) for name in HARMLESS]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old protocols and sparse tensors
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        foreign = _foreign_class(path, str(error))
        if foreign:
            raise ValueError(
                f"{path.name} holds {foreign}, which is not known to be harmless, so the file was not read; "
                f"ask its authors for safetensors or for the weights alone"
            ) from error
        raise ValueError(_damaged(path, error)) from error
    except Exception as error:  # damaged opcodes can end in any of them
        raise ValueError(_damaged(path, error)) from error


def _foreign_class(path: Path, message: str) -> str:
    """The classes and functions of a pickle that are not allowed, by name."""
    try:
        found = [name for name in get_unsafe_globals_in_checkpoint(path) if name not in HARMLESS]
    except (ValueError, RuntimeError, pickle.UnpicklingError, EOFError):
        found = []  # only the zip format can be listed
    named = re.search(r"GLOBAL (\S+)", message)
    return ", ".join(sorted(found)) or (named[1] if named else "")


def _damaged(path: Path, error: Exception) -> str:
    if path.stat().st_size == 0:
        return f"expected a checkpoint in {path.name}, got an empty file"
    # torch goes on with the advice to read the file unsafely
    message = str(error).rpartition("WeightsUnpickler error: ")[2]
    reason = re.split(r"\n|\. ", message)[0] or type(error).__name__
    return f"{path.name} is no checkpoint of torch, is damaged or was cut short ({reason})"


def _item(content: Any, name: str) -> Any:
    return content.get(name) if isinstance(content, dict) else None


def _holds_weights(content: Any) -> bool:
    return (
        isinstance(content, dict)
        and len(content) > 0
        and all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in content.items())
    )


def _holds_its_numbers(tensor: torch.Tensor) -> bool:
    """Not if it is sparse, quantized, expanded or on another device: a small file could fill the memory."""
    return (
        tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
        and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
    )


def _content_in_words(content: Any) -> str:
    if not isinstance(content, dict):
        return f"a {type(content).__name__}"
    return f"a dictionary with {', '.join(str(key) for key in list(content)[:5]) or 'nothing'}"
