"""A function of one's own that builds a model."""

import contextlib
import importlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from tapadl.evaluation.library_preprocessing import from_timm
from tapadl.evaluation.preprocessing import Preprocessing
from tapadl.evaluation.sources.source import Source, nearest, reason_of
from tapadl.evaluation.weights import load_weights

FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""What names one: `module:function`."""


def from_function(spec: str, checkpoint: Path | None, options: Mapping[str, Any] | None = None) -> Source:
    """What `module:function` returns for these keyword arguments: a model, or (model, Preprocessing)."""
    result = call_function(spec, options or {})
    model, preprocessing = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"expected {spec} to return a torch.nn.Module, or (model, Preprocessing), "
            f"got {type(model).__name__}"
        )
    facts = {"library": "own", "architecture": type(model).__name__}
    if checkpoint is not None:
        facts |= load_weights(model, checkpoint)
    return Source(model, _own_preprocessing(spec, model, preprocessing), facts)


def call_function(spec: str, options: Mapping[str, Any]) -> Any:
    """What `module:function` returns for these keyword arguments; the current folder is searched first.

    Raises:
        ValueError: If there is no such module or function, or it fails.
    """
    module_name, _, function_name = spec.partition(":")
    with _importable_from_here():
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name not in (module_name, module_name.split(".")[0]):
                raise ValueError(f"{module_name} needs {error.name}, which is not installed") from error
            raise ValueError(
                f"found no module {module_name}, neither installed nor in the current folder"
            ) from None
        except Exception as error:
            raise ValueError(f"importing {module_name} failed: {reason_of(error)}") from error
        function = getattr(module, function_name, None)
        if not callable(function):
            raise ValueError(
                f"found no function {function_name} in {module_name}{nearest(function_name, dir(module))}"
            )
        try:
            return function(**options)
        except Exception as error:
            raise ValueError(f"{spec} failed: {reason_of(error)}") from error


def _own_preprocessing(spec: str, model: nn.Module, given: Any) -> Preprocessing:
    found = getattr(model, "preprocessing", None) if given is None else given
    if isinstance(found, Preprocessing):
        return found
    if found is None and isinstance(getattr(model, "pretrained_cfg", None), dict):
        return from_timm(model)
    raise ValueError(
        f"expected {spec} to say what is done to a picture, as (model, tapadl.evaluation.preprocessing."
        f"Preprocessing) or in model.preprocessing, got {type(found).__name__}"
    )


@contextlib.contextmanager
def _importable_from_here() -> Iterator[None]:
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
