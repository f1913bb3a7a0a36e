"""Classifiers of transformers."""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from tapadl.evaluation.library_preprocessing import from_transformers
from tapadl.evaluation.sources.source import Source, told_in_a_sentence, without_folders
from tapadl.evaluation.weights import SavedTAP, attach_saved_tap, find_saved_tap, tap_in_words

Loaded = tuple[nn.Module, dict[str, Any]]


def from_transformers_id(model_id: str) -> Source:
    """A classifier of transformers, from a hub or a folder; safetensors only, and no code from there."""
    try:
        from transformers import AutoImageProcessor, AutoModelForImageClassification
    except ImportError:
        raise ValueError(
            "models of transformers need the extra: pip install 'tapadl[transformers]'"
        ) from None
    name = without_folders(model_id)
    facts = {"library": "transformers", "weights": name}
    with told_in_a_sentence(f"could not load {name} with transformers"), _quiet():
        model, report = _load(AutoModelForImageClassification, model_id)
        processor = AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
            model_id, trust_remote_code=False
        )
        facts["architecture"] = type(model).__name__
        tap = find_saved_tap(dict.fromkeys(report["unexpected_keys"], (4,)))
        if tap:
            model, report, tap = _load_with_tap(type(model), model_id, tap)
            facts["tap"] = tap_in_words(tap)
    absent = sorted(report["missing_keys"]) + sorted(key for key, *_ in report["mismatched_keys"])
    if absent:
        raise ValueError(
            f"{name} lacks weights of {facts['architecture']}, which would stay random: {len(absent)}, "
            f"{', '.join(absent[:3])}; take a checkpoint that was trained as a classifier"
        )
    unused = sorted(report["unexpected_keys"])
    if unused:  # heads of pre-training are usual in such files
        facts["unused_weights"] = f"{len(unused)}: {', '.join(unused[:3])}"
    return Source(model, from_transformers(processor), facts)


def _load(model_class: Any, model_id: str) -> Loaded:
    """The model, and which weights are missing, unexpected and of another shape."""
    loaded: Loaded = model_class.from_pretrained(
        model_id,
        use_safetensors=True,
        trust_remote_code=False,
        dtype=torch.float32,
        ignore_mismatched_sizes=True,  # they are in the report
        output_loading_info=True,
    )
    return loaded


def _load_with_tap(
    model_class: Any, model_id: str, tap: dict[str, SavedTAP]
) -> tuple[nn.Module, dict[str, Any], dict[str, SavedTAP]]:
    """Load into a class that has TAP; transformers tells the number of branches where ours is another."""
    model, report = _load(_class_with_tap(model_class, tap), model_id)
    shapes = {key: saved for key, saved, _ in report["mismatched_keys"]}
    others = find_saved_tap(shapes)
    if others:
        tap = {
            block: replace(one, num_branches=others[block].num_branches) if block in others else one
            for block, one in tap.items()
        }
        model, report = _load(_class_with_tap(model_class, tap), model_id)
    return model, report, tap


def _class_with_tap(model_class: Any, tap: Mapping[str, SavedTAP]) -> Any:
    """The class, its models born with TAP: transformers then reads, renames and reports it as any weights."""

    def build(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        model_class.__init__(self, *args, **kwargs)
        attach_saved_tap(self, tap)

    return type(model_class.__name__, (model_class,), {"__init__": build})


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the tables and bars that transformers prints; what they say is in our facts and errors."""
    from transformers.utils import logging as messages

    verbosity, bars = messages.get_verbosity(), messages.is_progress_bar_enabled()
    messages.set_verbosity(logging.CRITICAL)
    messages.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        messages.set_verbosity(verbosity)
        if bars:
            messages.enable_progress_bar()  # type: ignore[no-untyped-call]
