"""A model of any source, ready to be evaluated: `load_model`."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import timm
import torch
from torch import nn

from tapadl.evaluation import sources
from tapadl.evaluation.preprocessing import Preprocessing
from tapadl.evaluation.sources import Source
from tapadl.evaluation.sources.function import FUNCTION
from tapadl.evaluation.weights import weights_sha256

CHECKPOINT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".tar", ".ckpt")


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode, and what a result says about it.

    Args:
        name: What was asked for, without the folders in front of a file.
        model: (B, C, H, W) normalised images -> (B, outputs) logits.
        preprocessing: Of its pictures.
        weights_sha256: Of its state_dict; see `tapadl.evaluation.weights.weights_sha256`.
        facts: architecture, library, library_version, parameters, outputs; checkpoint and checkpoint_sha256
            or weights; tap, unused_weights.
    """

    name: str
    model: nn.Module
    preprocessing: Preprocessing
    weights_sha256: str
    facts: Mapping[str, str]


class Logits(nn.Module):
    """A classifier of transformers that returns its logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, outputs)."""
        logits: torch.Tensor = self.model(pixel_values=images).logits
        return logits


def load_model(spec: str, *, checkpoint: str | Path | None = None) -> LoadedModel:
    """Build a model and load its weights.

    Nothing that stands in a checkpoint, a folder or on a hub is run; `module:function` is code of one's own.
    Weights of half precision are taken to float32.

    Args:
        spec: A name of timm; `hf-hub:ID`; `local-dir:FOLDER` or the path of a folder in timm's format; the
            path of a file that `tapadl convert` wrote; `transformers:ID_OR_FOLDER`; `torchvision:NAME`; or
            `module:function`, importable from the current folder, which returns a model or
            (model, Preprocessing).
        checkpoint: Weights for the model, in place of pretrained ones; TAP in them is attached first.

    Raises:
        ValueError: If the model is not known or cannot be built, the weights do not fit, or it does not give
            logits of an image.
        OSError: If something has to be downloaded and cannot be.

    Example:
        >>> import os, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "weights.pth")
        >>> torch.save(timm.create_model("test_vit", num_classes=10).state_dict(), path)
        >>> loaded = load_model("test_vit", checkpoint=path)
        >>> loaded.preprocessing.image_size, loaded.facts["outputs"], loaded.facts["checkpoint"]
        ((160, 160), '10', 'weights.pth')
    """
    source = _source(spec, None if checkpoint is None else Path(checkpoint))
    sha256 = weights_sha256(source.model)
    parameters = sum(parameter.numel() for parameter in source.model.parameters())
    model = source.model
    if "pixel_values" in inspect.signature(model.forward).parameters:
        model = Logits(model)
    model.eval().requires_grad_(False)
    if any(parameter.dtype in (torch.float16, torch.bfloat16) for parameter in model.parameters()):
        model.float()
    facts = {
        **source.facts,
        "library_version": _version(source.facts["library"]),
        "parameters": str(parameters),
        "outputs": str(_outputs(spec, model, source.preprocessing)),
    }
    return LoadedModel(_name(spec), model, source.preprocessing, sha256, facts)


def _source(spec: str, checkpoint: Path | None) -> Source:
    scheme, _, rest = spec.partition(":")
    if scheme in ("hf-hub", "transformers") and checkpoint is not None:
        raise ValueError(f"expected no checkpoint beside {spec}, which brings its own weights")
    if scheme in ("hf-hub", "local-dir", "transformers", "torchvision") and not rest:
        raise ValueError(f"expected a name after {scheme}:, got none")
    if scheme == "hf-hub":
        return sources.from_hub(rest)
    if scheme == "transformers":
        return sources.from_transformers_id(rest)
    if scheme == "torchvision":
        return sources.from_torchvision_name(rest, checkpoint)
    if scheme == "local-dir":
        return sources.from_folder(Path(rest), checkpoint)
    if not timm.is_model(spec.split(".")[0]) and Path(spec).is_dir():
        return sources.from_folder(Path(spec), checkpoint)
    if Path(spec).suffix in CHECKPOINT_SUFFIXES:
        if checkpoint is not None:
            raise ValueError(
                f"expected the name of a model beside the checkpoint {checkpoint.name}, got a file"
            )
        return sources.from_file(Path(spec))
    if FUNCTION.fullmatch(spec):
        return sources.from_function(spec, checkpoint)
    if ":" in spec or "/" in spec:
        raise ValueError(
            f"found no file or folder {spec}; expected a name of timm, hf-hub:ID, local-dir:FOLDER, "
            f"transformers:ID, torchvision:NAME, module:function or a path"
        )
    return sources.from_timm_name(spec, checkpoint)


def _outputs(spec: str, model: nn.Module, preprocessing: Preprocessing) -> int:
    """The number of outputs, found by showing the model one gray image."""
    like = next(model.parameters(), torch.empty(0))
    image = torch.full((1, preprocessing.channels, *preprocessing.image_size), 0.5, device=like.device)
    try:
        with torch.inference_mode():
            logits = model(preprocessing.normalise(image))
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{_name(spec)} fails on an image of {tuple(image.shape)}: {reason}") from error
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or logits.shape[0] != 1:
        got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ValueError(f"expected logits (1, outputs) from {_name(spec)} for one image, got {got}")
    return logits.shape[1]


def _name(spec: str) -> str:
    scheme, _, rest = spec.partition(":")
    path = rest if scheme in ("local-dir", "transformers") else spec
    return Path(path).resolve().name if Path(path).exists() else spec


def _version(library: str) -> str:
    try:
        return version("tapadl" if library == "own" else library)
    except PackageNotFoundError:
        return "unknown"
