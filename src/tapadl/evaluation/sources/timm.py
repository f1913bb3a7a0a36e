"""Models of timm: by name, from a file, a folder or a hub."""

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg
from torch import nn

import tapadl.models  # registers its names with timm  # noqa: F401
from tapadl.evaluation.library_preprocessing import from_timm
from tapadl.evaluation.sources.source import Source, nearest, told_in_a_sentence
from tapadl.evaluation.weights import load_state, load_weights
from tapadl.models.checkpoint import read_state_dict
from tapadl.models.sharing import CONFIG, DESCRIPTION, metadata_of

# What timm writes into a folder, the safe form first.
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")


def from_timm_name(name: str, checkpoint: Path | None) -> Source:
    """A model timm can create, with timm's weights or those of a file."""
    architecture = name.split(".")[0]
    if not timm.is_model(architecture):
        raise ValueError(f"timm knows no model {architecture!r}{nearest(architecture, timm.list_models())}")
    config = _pretrained_config(name)
    if checkpoint is not None and (described := _described(checkpoint, architecture)):
        return described
    if checkpoint is not None:
        state, _ = read_state_dict(checkpoint)
        model = timm.create_model(name, pretrained=False, **_classes(state, config.classifier))
        facts = load_state(model, state, checkpoint)
    elif not config.has_weights:
        raise ValueError(f"no weights of {name} can be downloaded; give a checkpoint, as a file of your own")
    else:
        with told_in_a_sentence(f"could not load the weights of {name}"):
            model = timm.create_model(name, pretrained=True)
        facts = {"weights": str(config.hf_hub_id or config.url or name)}
    return _of_timm(model, facts | {"architecture": name})


def from_file(path: Path) -> Source:
    """A file of `tapadl train` or `tapadl convert`, which says what model it is of."""
    if not path.is_file():
        raise ValueError(f"expected a checkpoint at {path}, found no file")
    written = metadata_of(path)
    if described := _described(path):
        return described
    if DESCRIPTION in written:
        raise ValueError(f"{path.name} holds a segmenter; evaluate it with --task segmentation")
    model_name = written.get("model_name")
    if model_name is None:
        raise ValueError(
            f"{path.name} does not say of which model it is; name the model, and give the file as checkpoint"
        )
    return from_timm_name(model_name, path)


def _described(path: Path, architecture: str | None = None) -> Source | None:
    """The model that a file of `tapadl train` describes; None where it describes none, or another one."""
    written = metadata_of(path)
    if CONFIG not in written or architecture not in (None, written.get("model_name")):
        return None
    with TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(written[CONFIG])
        return _from_config(Path(folder), path.name, path)


def from_folder(folder: Path, checkpoint: Path | None = None) -> Source:
    """A folder with config.json and weights, as timm and `tapadl convert` write it."""
    return _from_config(folder, folder.name, checkpoint)


def _from_config(folder: Path, name: str, checkpoint: Path | None) -> Source:
    config = _config(folder, name)
    if "model_type" in config:
        raise ValueError(f"{name} is a folder of transformers; write transformers:{name}")
    architecture = config.get("architecture")
    if not isinstance(architecture, str):
        raise ValueError(f"expected an architecture in config.json of {name}, found none")
    if not timm.is_model(architecture):
        raise ValueError(
            f"timm knows no model {architecture!r}, which config.json of {name} names"
            f"{nearest(architecture, timm.list_models())}"
        )
    with told_in_a_sentence(f"could not build the model that config.json of {name} describes"):
        model = timm.create_model(f"local-dir:{folder}", pretrained=False)
    facts = load_weights(model, checkpoint or _weight_file(folder))
    return _of_timm(model, facts | {"architecture": architecture})


def from_hub(model_id: str) -> Source:
    """A model in timm's format from a hub."""
    # a stranger's configuration may not point to another file, nor to a loader of another format
    safe = {"hf_hub_filename": None, "custom_load": False}
    try:
        with told_in_a_sentence(f"could not load {model_id} from the hub"):
            model = timm.create_model(f"hf-hub:{model_id}", pretrained=True, pretrained_cfg_overlay=safe)
    except ValueError as error:
        if ".tap." not in str(error.__cause__):
            raise
        return from_folder(_downloaded(model_id))  # TAP, which timm does not know
    config: Any = model.pretrained_cfg
    return _of_timm(model, {"weights": model_id, "architecture": config["architecture"]})


def _of_timm(model: nn.Module, facts: dict[str, str]) -> Source:
    if getattr(model, "num_classes", None) == 0:
        raise ValueError(
            f"{facts['architecture']} has no classifier, it gives features; take weights with classes"
        )
    return Source(model, from_timm(model), {"library": "timm"} | facts)


def _pretrained_config(name: str) -> PretrainedCfg:
    try:
        config = timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError:  # an unknown tag
        config = None
    if config is None:
        tags = ", ".join(timm.list_pretrained(f"{name.split('.')[0]}.*")) or "no pretrained weights"
        raise ValueError(f"timm knows no weights {name!r}, it has {tags}")
    return config


def _classes(state: dict[str, torch.Tensor], classifier: Any) -> dict[str, Any]:
    """The number of classes that the head in a checkpoint tells apart, as an option of timm."""
    name = (
        classifier[0] if isinstance(classifier, Sequence) and not isinstance(classifier, str) else classifier
    )
    head = state.get(f"{name}.weight")
    return {} if head is None else {"num_classes": head.shape[0]}


def _downloaded(model_id: str) -> Path:
    from huggingface_hub import snapshot_download

    repository, _, revision = model_id.partition("@")
    with told_in_a_sentence(f"could not load {model_id} from the hub"):
        return Path(
            snapshot_download(
                repository, revision=revision or None, allow_patterns=["config.json", *WEIGHT_FILES]
            )
        )


def _weight_file(folder: Path) -> Path:
    present = [folder / name for name in WEIGHT_FILES if (folder / name).is_file()]
    if present:
        return present[0]
    others = sorted(path for pattern in ("*.safetensors", "*.pth", "*.bin") for path in folder.glob(pattern))
    if len(others) != 1:
        found = ", ".join(path.name for path in others) or "none"
        raise ValueError(
            f"expected one file of weights in {folder.name}, as {WEIGHT_FILES[0]}, found {found}"
        )
    return others[0]


def _config(folder: Path, name: str) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except FileNotFoundError:
        raise ValueError(
            f"expected config.json in the folder {folder}, as timm writes it, found none"
        ) from None
    except ValueError as error:
        raise ValueError(f"expected JSON in config.json of {name}, but it is damaged: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"expected an object in config.json of {name}, got a {type(config).__name__}")
    return config
