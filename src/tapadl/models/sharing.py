"""Weights as others read them: one safetensors file, or a folder that timm loads with `local-dir:`."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import timm
import torch
from safetensors.torch import save

from tapadl.data.atomic import write_atomically
from tapadl.models.checkpoint import read_state_dict
from tapadl.models.convert import check_name, from_official, num_classes_of
from tapadl.models.weights import PUBLISHED

WEIGHTS_FILE = "model.safetensors"


def convert(
    source: Path,
    target: Path,
    model_name: str,
    *,
    metrics: Callable[[Mapping[str, torch.Tensor]], Mapping[str, float]] | None = None,
    overwrite: bool = False,
) -> dict[str, str]:
    """A released checkpoint as safetensors: a file if `target` ends so, else a folder for timm.

    Args:
        source: What was released: a pickle of torch, read without running anything in it, or safetensors.
        target: File or folder to make.
        model_name: An official name.
        metrics: Gives the scores for the model card, once the weights are known; may refuse them.
        overwrite: Replace what is at `target`.

    Returns:
        What is written about the weights: model, source, its sha256 and wrapper, licence, page.

    Raises:
        ValueError: If the source cannot be read, is of another model, or the target exists.
        OSError: If the target cannot be written.
    """
    check_name(model_name)
    if target.exists() and not overwrite:
        raise ValueError(f"expected nothing at {target}, found something; name another, or give --overwrite")
    state_dict, wrapper = read_state_dict(source)
    weights = from_official(state_dict, model_name)
    facts = {
        "model_name": model_name,
        "source_file": source.name,
        "source_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "source_wrapper": wrapper,
    }
    if model_name in PUBLISHED:
        published = PUBLISHED[model_name]
        facts |= {"licence": published.licence, "page": published.page}
    save_weights(weights, target, model_name, facts, metrics(weights) if metrics else None)
    return facts


def save_weights(
    weights: Mapping[str, torch.Tensor],
    target: Path,
    model_name: str,
    facts: Mapping[str, str],
    metrics: Mapping[str, float] | None = None,
) -> None:
    """Write weights by our names, as one file or as a folder with config.json and a model card.

    A reader sees all of it or nothing: it is made beside `target` and renamed, in place of what was there.

    Args:
        weights: Complete for the model.
        target: `*.safetensors` for a file, anything else for a folder.
        model_name: A name that timm creates once `tapadl.models` is imported.
        facts: Written into the file and the card.
        metrics: Scores for the card, by name.
    """
    content = save({key: tensor.contiguous() for key, tensor in weights.items()}, dict(facts))
    if target.suffix == ".safetensors":
        write_atomically(target, content)
        return
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        write_atomically(temporary / WEIGHTS_FILE, content)
        config = _config(model_name, num_classes_of(dict(weights), model_name))
        write_atomically(temporary / "config.json", (json.dumps(config, indent=2) + "\n").encode())
        write_atomically(temporary / "README.md", model_card(model_name, facts, metrics or {}).encode())
        if target.is_dir():
            shutil.rmtree(target)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def model_card(model_name: str, facts: Mapping[str, str], metrics: Mapping[str, float]) -> str:
    """A page about the weights, in the form model hubs show."""
    lines = [
        "---",
        "library_name: timm",
        "tags: [image-classification, timm, tapadl]",
        "---",
        f"# {model_name}",
        "",
    ]
    lines += [f"- {name}: {value}" for name, value in facts.items() if value]
    if metrics:
        lines += ["", "| metric | value |", "|---|---:|"]
        lines += [f"| {name} | {value:.2f} |" for name, value in metrics.items()]
    lines += [
        "",
        "```python",
        "import timm",
        "import tapadl.models  # registers the name",
        "",
        'model = timm.create_model("local-dir:PATH_OF_THIS_FOLDER", pretrained=True)',
        "```",
    ]
    return "\n".join(lines) + "\n"


def _config(model_name: str, num_classes: int) -> dict[str, object]:
    cfg = timm.get_pretrained_cfg(model_name)
    if cfg is None:
        raise ValueError(f"expected a model of tapadl.models, got {model_name}")
    pretrained_cfg = {
        **cfg.to_dict(),  # type: ignore[no-untyped-call]
        "num_classes": num_classes,
        "custom_load": False,
    }
    return {"architecture": model_name, "num_classes": num_classes, "pretrained_cfg": pretrained_cfg}
