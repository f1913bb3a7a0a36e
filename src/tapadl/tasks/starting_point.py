"""Where the training of a model of timm begins, whatever the task: its name, its weights, its TAP."""

import timm
import torch
from torch import nn

from tapadl.evaluation.sources.source import nearest
from tapadl.evaluation.weights import find_saved_tap
from tapadl.models.registry import TAP_PREFIX
from tapadl.models.sharing import saved_temperature
from tapadl.training.settings import ModelSettings, TapSettings

Weights = dict[str, torch.Tensor]


def check_name(settings: ModelSettings) -> None:
    """That timm knows the model, and has its weights if they are asked for.

    Raises:
        ValueError: If not; it names the nearest, or those with weights.
    """
    architecture = settings.name.split(".")[0]
    if not timm.is_model(architecture):
        raise ValueError(f"timm knows no model {architecture!r}{nearest(architecture, timm.list_models())}")
    if settings.pretrained:
        try:
            registered = timm.get_pretrained_cfg(settings.name, allow_unregistered=False)
        except RuntimeError:  # the tag is unknown
            registered = None
        if registered is None or not registered.has_weights:
            known = ", ".join(timm.list_pretrained(f"{architecture}.*")) or "none"
            raise ValueError(
                f"no weights of {settings.name} can be downloaded, those of {architecture} are: {known}; "
                f"give a file with --model.checkpoint, or leave out model.pretrained"
            )


def check_tap(settings: ModelSettings, tap: TapSettings, saved: Weights) -> bool:
    """Whether TAP has to be attached.

    Args:
        settings: Of the model.
        tap: What is asked for.
        saved: Of TAP in its checkpoint, beside what the model has.

    Raises:
        ValueError: If the model has TAP built in and another one is asked for, or that of a checkpoint is not
            wanted or has another temperature.
    """
    built_in = settings.name.startswith(TAP_PREFIX)
    if settings.checkpoint is not None and (built_in or tap.enabled):
        written = saved_temperature(settings.checkpoint)
        if written is not None and written != (1.0 if built_in else tap.temperature):
            name = f"{settings.name.removeprefix(TAP_PREFIX)} with " if built_in else ""
            raise ValueError(
                f"expected {name}tap.temperature {written:g}, with which TAP in {settings.checkpoint} was "
                f"trained, got {1.0 if built_in else tap.temperature:g}"
            )
    if built_in:
        if (tap.num_branches, tap.temperature, tap.init, tap.blocks) != (4, 1.0, "paper", None):
            raise ValueError(
                f"expected the default tap settings for {settings.name}, which has TAP built in; name "
                f"{settings.name.removeprefix(TAP_PREFIX)} to choose others"
            )
        return False
    if not tap.enabled and saved:
        raise ValueError(f"expected tap.enabled to be true, for {settings.checkpoint} holds TAP, got false")
    return tap.enabled


def split_tap(model: nn.Module, state: Weights) -> tuple[Weights, Weights]:
    """The weights of a checkpoint, and those of TAP in it that the model does not have yet."""
    own = model.state_dict().keys()
    blocks = find_saved_tap({key: value.shape for key, value in state.items() if key not in own})
    starts = tuple(f"{block}.tap." for block in blocks)
    later = {key: value for key, value in state.items() if starts and key.startswith(starts)}
    return {key: value for key, value in state.items() if key not in later}, later


def checkpoint_gradients(model: nn.Module, name: str) -> None:
    """Compute blocks twice, to save memory.

    Raises:
        ValueError: If the model cannot.
    """
    switch = getattr(model, "set_grad_checkpointing", None)
    if switch is None:
        raise ValueError(
            f"expected training.grad_checkpointing to be false for {name}, which has no "
            f"set_grad_checkpointing()"
        )
    switch(True)
