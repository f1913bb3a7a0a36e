"""Weights as safetensors files."""

import hashlib
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import nn

from tapadl.data.atomic import write_atomically


def save_weights(model: nn.Module, path: str | Path) -> str:
    """Write the state_dict of a model as safetensors, all of it or nothing.

    Args:
        model: Its parameters and buffers.
        path: The file to write or replace.

    Returns:
        The sha256 of the file, hexadecimal.

    Raises:
        OSError: If the file cannot be written.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    content: bytes = safetensors.torch.save(state)
    write_atomically(path, content)
    return hashlib.sha256(content).hexdigest()


def load_weights(model: nn.Module, path: str | Path) -> str:
    """Load a file that `save_weights` wrote into a model of the same architecture.

    Returns:
        The sha256 of the file, hexadecimal.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a safetensors file, or its weights do not fit the model.
    """
    try:
        content = Path(path).read_bytes()
        model.load_state_dict(safetensors.torch.load(content))
    except FileNotFoundError:
        raise FileNotFoundError(f"expected weights at {path}, but there is no such file") from None
    except SafetensorError as error:
        raise ValueError(f"expected a safetensors file at {path}, but it is damaged: {error}") from None
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"expected weights for this {type(model).__name__} in {path}, got others: {reason}"
        ) from None
    return hashlib.sha256(content).hexdigest()
