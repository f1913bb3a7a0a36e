"""Weights as others read them: one safetensors file, or a folder that timm loads with `local-dir:`."""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from tapadl.data.atomic import write_atomically
from tapadl.models.checkpoint import read_state_dict
from tapadl.models.convert import (
    RELEASED_SEGMENTER,
    check_name,
    from_official,
    holds_segmenter,
    num_classes_of,
    segmenter_options,
)
from tapadl.models.segformer import Segmenter, build_segmenter
from tapadl.models.weights import PUBLISHED, release_of

WEIGHTS_FILE = "model.safetensors"
FILES = (WEIGHTS_FILE, "config.json", "README.md")
# In a file of weights: what a segmenter that was trained here is besides them.
DESCRIPTION = "segmenter"
# In a file of weights: the classifier as timm's config.json describes it, and the temperature of its TAP.
CONFIG = "config"
TEMPERATURE = "tap_temperature"
# What is written about weights, and handed on when they are converted again.
FACTS = ("source_file", "source_sha256", "source_wrapper", "licence", "page", "recipe")
# Of the model itself, handed on whenever they are there.
OWN_FACTS = (CONFIG, TEMPERATURE)


def convert(
    source: Path,
    target: Path,
    model_name: str,
    *,
    metrics: Callable[[Mapping[str, torch.Tensor]], Mapping[str, float]] | None = None,
    overwrite: bool = False,
) -> dict[str, str]:
    """A checkpoint as safetensors: a file if `target` ends so, else a folder for timm.

    That of a segmenter becomes a file, for `load_segmenter`.

    Args:
        source: What was released, a pickle of torch, read without running anything in it; or safetensors of
            one's own or of an earlier call, which keep what is written about them.
        target: File or folder to make.
        model_name: An official name.
        metrics: Gives the scores for the model card, once the weights are known; may refuse them.
        overwrite: Replace what is at `target`.

    Returns:
        What is written about the weights: model, source, its sha256 and wrapper; of what was released also
        licence, page and recipe.

    Raises:
        ValueError: If the source cannot be read, is of another model, or the target exists, with `overwrite`
            if it is a folder with anything else in it; or if a segmenter, or TAP of another temperature than
            1, is to become a folder.
        OSError: If the target cannot be written.
    """
    check_name(model_name)
    _check_free(target, overwrite)
    state_dict, wrapper = read_state_dict(source)
    weights = from_official(state_dict, model_name)
    written = metadata_of(source)
    facts = {"model_name": model_name} | _facts_about(source, wrapper, model_name)
    facts |= {name: written[name] for name in OWN_FACTS if name in written}
    if CONFIG in facts:
        facts[CONFIG] = _config_of(model_name, facts[CONFIG], source)
    if target.suffix != ".safetensors" and (saved_temperature(source) or 1.0) != 1.0:
        raise ValueError(
            f"expected a .safetensors file for TAP of temperature {facts[TEMPERATURE]}, got {target}; timm's "
            f"folders cannot say it"
        )
    if holds_segmenter(weights):
        if target.suffix != ".safetensors":
            raise ValueError(
                f"expected a .safetensors file for a segmenter, got {target}; timm's folders hold classifiers"
            )
        if "licence" in facts:  # released, now or before
            facts["recipe"] = "see the page"
            if "backbone.pos_embed.token_projection.weight" in weights:
                facts["position_table"] = "as in the released segmenters"  # read by load_segmenter
        elif DESCRIPTION in written:
            facts[DESCRIPTION] = written[DESCRIPTION]
    save_weights(weights, target, model_name, facts, metrics(weights) if metrics else None)
    return facts


def load_segmenter(source: Path) -> Segmenter:
    """The segmenter in a file that `convert` has written.

    Args:
        source: Safetensors.

    Raises:
        ValueError: If the file does not say its model, or holds no segmenter of it.
    """
    weights, _ = read_state_dict(source)
    written = metadata_of(source)
    if "model_name" not in written or not holds_segmenter(weights):
        other = (
            f"a {written['model_name']} without a head for it" if "model_name" in written else "other weights"
        )
        raise ValueError(
            f"expected a segmenter that tapadl train or tapadl convert has written in {source}, got {other}"
        )
    name = written["model_name"]
    weights = from_official(weights, name)
    options = segmenter_options(weights)
    if "position_table" in written:
        options |= RELEASED_SEGMENTER
    segmenter = build_segmenter(name, **options)
    segmenter.load_state_dict(weights)
    return segmenter


def _check_free(target: Path, overwrite: bool) -> None:
    if target.exists() and not overwrite:
        raise ValueError(f"expected nothing at {target}, found something; name another, or give --overwrite")
    others = sorted({path.name for path in target.iterdir()} - {*FILES}) if target.is_dir() else []
    if others:
        raise ValueError(
            f"expected a folder with {', '.join(FILES)} and nothing else to replace at {target}, "
            f"found {others[0]}; name another"
        )


def _facts_about(source: Path, wrapper: str, model_name: str) -> dict[str, str]:
    written = metadata_of(source)
    if "source_sha256" in written:
        return {name: " ".join(written[name].split()) for name in FACTS if name in written}
    facts = {
        "source_file": source.name,
        "source_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "source_wrapper": wrapper,
    }
    if source.suffix == ".safetensors":  # one's own: the releases are pickles
        return facts
    release = release_of(model_name)
    recipe = PUBLISHED[model_name].recipe if model_name in PUBLISHED else ""
    return facts | {"licence": release.licence, "page": release.page, "recipe": recipe or "see the page"}


def _config_of(model_name: str, written: str, source: Path) -> str:
    """The description of a classifier, for a model of this name."""
    try:
        config = json.loads(written)
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise ValueError(f"expected the description of a model as {CONFIG} in {source.name}, got {written!r}")
    return json.dumps(config | {"architecture": model_name})


def saved_temperature(path: Path) -> float | None:
    """That of TAP in a file of weights, from which it does not follow; None where the file does not say it.

    Raises:
        ValueError: If the file is damaged, or says something else than a number above 0.
    """
    written = metadata_of(path).get(TEMPERATURE)
    if written is None:
        return None
    try:
        temperature = float(written)
    except ValueError:
        temperature = math.nan
    if not 0 < temperature < math.inf:
        raise ValueError(f"expected a number above 0 as {TEMPERATURE} in {path.name}, got {written!r}")
    return temperature


def metadata_of(path: Path) -> dict[str, str]:
    """What a safetensors file says of its weights; nothing of other files.

    Raises:
        ValueError: If it is damaged.
    """
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"expected {path.name} to be a whole safetensors file: {error}") from error


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
    content = save({key: _own_copy(tensor) for key, tensor in weights.items()}, dict(facts))
    if target.suffix == ".safetensors":
        write_atomically(target, content)
        return
    temporary, old = (target.with_name(f".{target.name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
    try:
        write_atomically(temporary / WEIGHTS_FILE, content)
        config = (
            json.loads(facts[CONFIG])
            if CONFIG in facts
            else _config(model_name, num_classes_of(dict(weights), model_name))
        )
        write_atomically(temporary / "config.json", (json.dumps(config, indent=2) + "\n").encode())
        write_atomically(temporary / "README.md", model_card(model_name, facts, metrics or {}).encode())
        if target.is_dir():
            # two renames: a kill in between leaves the old folder under its other name
            target.rename(old)
        temporary.rename(target)
    finally:
        if old.is_dir() and not target.exists():
            old.rename(target)
        for folder in (temporary, old):
            shutil.rmtree(folder, ignore_errors=True)


def _own_copy(tensor: torch.Tensor) -> torch.Tensor:
    """Memory of its own: safetensors refuses tensors that share theirs."""
    return tensor.detach().clone(memory_format=torch.contiguous_format)


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
    lines += [f"- {name}: {value}" for name, value in facts.items() if value and name != CONFIG]
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
