"""Classifiers of torchvision."""

from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from tapadl.evaluation.library_preprocessing import from_torchvision
from tapadl.evaluation.sources.source import Source, nearest, told_in_a_sentence
from tapadl.evaluation.weights import load_state
from tapadl.models.checkpoint import read_state_dict


def from_torchvision_name(name: str, checkpoint: Path | None) -> Source:
    """A classifier of torchvision, with its default weights or those of a file."""
    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        raise ValueError(f"torchvision knows no classifier {name!r}{nearest(name, names)}")
    weights = torchvision.models.get_model_weights(name).DEFAULT
    facts = {"library": "torchvision", "architecture": name}
    if checkpoint is None:
        with told_in_a_sentence(f"could not load the weights of {name}"):
            model = torchvision.models.get_model(name, weights=weights)
        facts["weights"] = str(weights)
    else:
        state, _ = read_state_dict(checkpoint)
        model = torchvision.models.get_model(name, weights=None, **_torchvision_options(name, state))
        facts |= load_state(model, state, checkpoint)
    return Source(model, from_torchvision(weights.transforms()), facts)


def _torchvision_options(name: str, state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The number of classes in a checkpoint: the rows of the last layer of the network."""
    with torch.device("meta"):
        model = torchvision.models.get_model(name, weights=None, **_quiet(name))
    last = [key for key, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)][-1]
    head = state.get(f"{last}.weight")
    return _quiet(name) | ({} if head is None else {"num_classes": head.shape[0]})


def _quiet(name: str) -> dict[str, Any]:
    """Two networks warn of the time their initialisation takes, unless told."""
    return {"init_weights": False} if name in ("inception_v3", "googlenet") else {}
