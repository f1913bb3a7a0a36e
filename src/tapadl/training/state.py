"""Everything that a training run is, at a step: what a checkpoint holds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from tapadl.training.objective import Objective
from tapadl.training.weight_average import WeightAverage

Plain = dict[str, Any] | list[Any] | str | float | int | bool | None
"""What JSON can hold."""


@dataclass
class TrainingState:
    """A run between two steps.

    Random numbers are not part of it: they follow from (seed, step, rank). Neither is the schedule, which
    follows from the step.

    Args:
        model: Its parameters and buffers; whole, replicated or sharded.
        optimizer: Of these parameters.
        scaler: Of the loss; without effect unless the precision is float16.
        objective: Its numbers, where it adapts.
        average: Of the weights, if one is kept.
        step: Optimizer steps done.
        best: The evaluation with the highest score so far: its "step", its "score" and all it measured.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    objective: Objective
    average: WeightAverage | None = None
    step: int = 0
    best: dict[str, Any] = field(default_factory=dict)

    def tree(self) -> dict[str, Any]:
        """All of it, nested, with the tensors themselves in it."""
        return {
            "step": self.step,
            "best": self.best,
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.tensors,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "objective": self.objective.state(),
        }

    def load(self, tree: Mapping[str, Any]) -> None:
        """Become what `tree` says.

        Args:
            tree: As `tree()` gives it, read back.
        """
        self.step, self.best = tree["step"], tree["best"]
        self.model.load_state_dict(tree["model"])
        if self.average is not None:
            for name, tensor in self.average.tensors.items():
                tensor.copy_(tree["average"][name])
        self.optimizer.load_state_dict(tree["optimizer"])
        self.scaler.load_state_dict(tree["scaler"])
        self.objective.load_state(tree["objective"])

    def weights(self) -> dict[str, torch.Tensor]:
        """The result on the CPU, whole also where it is sharded: the average, or the weights if none is kept.

        Every process takes part.
        """
        tensors = dict(self.model.state_dict())
        tensors.update({} if self.average is None else self.average.tensors)
        # contiguous, for channels_last is how the model computes, and not how a file is laid out
        return {
            name: _whole(tensor).detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in tensors.items()
        }

    def template(self, path: str, size: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        """Room for an optimizer tensor that the fresh optimizer does not have yet.

        Args:
            path: Of the tensor in the tree, such as "optimizer.state.3.exp_avg".
            size: Of the whole tensor.
            dtype: Of its elements.

        Returns:
            (size), sharded like its parameter where it has the shape of that.
        """
        place = path.split(".")
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        if place[:2] == ["optimizer", "state"]:
            parameter = parameters[int(place[2])]
            if isinstance(parameter, DTensor) and parameter.shape == size:
                return torch.empty_like(parameter, dtype=dtype, requires_grad=False)
        return torch.empty(size, dtype=dtype)


def flatten(tree: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], Plain]:
    """The tensors of a tree by their path, and all the rest as plain data that says where they stand.

    Raises:
        TypeError: If something in it is neither a tensor nor plain data.

    Example:
        >>> tensors, plain = flatten({"a": {0: torch.zeros(2)}, "b": (1, None)})
        >>> list(tensors), unflatten(plain, tensors)
        (['a.0'], {'a': {0: tensor([0., 0.])}, 'b': (1, None)})
    """
    tensors: dict[str, torch.Tensor] = {}

    def plain(value: Any, path: str) -> Plain:
        if isinstance(value, torch.Tensor):
            tensors[path] = value
            return {"tensor": path}
        if isinstance(value, Mapping):
            return {
                "items": [
                    [key, plain(item, f"{path}.{key}" if path else str(key))] for key, item in value.items()
                ]
            }
        if isinstance(value, list | tuple):
            kind = "tuple" if isinstance(value, tuple) else "list"
            return {kind: [plain(item, f"{path}.{index}") for index, item in enumerate(value)]}
        if isinstance(value, torch.dtype):
            return {"dtype": str(value).removeprefix("torch.")}
        if value is None or isinstance(value, str | bool | int | float):
            return value
        raise TypeError(f"expected tensors and plain data to save, got {type(value).__name__} at {path}")

    return tensors, plain(tree, "")


def unflatten(plain: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """The tree that `flatten` took apart."""
    match plain:
        case {"tensor": path}:
            return tensors[path]
        case {"dtype": name}:
            return getattr(torch, name)
        case {"items": items}:
            return {key: unflatten(item, tensors) for key, item in items}
        case {"list": items}:
            return [unflatten(item, tensors) for item in items]
        case {"tuple": items}:
            return tuple(unflatten(item, tensors) for item in items)
    return plain


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
