"""What part of a step a batch is, where a model divides its loss by the number of all labels of the step."""

from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

ALL_ITEMS = "num_items_in_batch"


class Noticed(torch.Tensor):
    """A number that notices whether somebody computes with it, or asks for its value."""

    uses: list[str]

    @classmethod
    def of(cls, number: torch.Tensor, uses: list[str] | None = None) -> "Noticed":
        """The number; copies of it, on other devices too, note their uses in the same list."""
        noticed = number.as_subclass(cls)
        noticed.uses = [] if uses is None else uses
        return noticed

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves, structure = tree_flatten((args, kwargs or {}))
        mine = [leaf for leaf in leaves if isinstance(leaf, cls)]
        with torch._C.DisableTorchFunctionSubclass():
            plain = [leaf.as_subclass(torch.Tensor) if isinstance(leaf, cls) else leaf for leaf in leaves]
            args, kwargs = tree_unflatten(plain, structure)
            result = func(*args, **kwargs)
        if func in _MOVES:
            return cls.of(result, mine[0].uses)
        if func.__name__ != "__get__":  # .device and the like
            for noticed in mine:
                noticed.uses.append(func.__name__)
        return result


_MOVES = (torch.Tensor.to, torch.Tensor.cuda, torch.Tensor.cpu, torch.Tensor.detach, torch.Tensor.clone)


def share_of_batch(options: dict[str, Any]) -> float | torch.Tensor:
    """What part of a step's labels these are, where the model divides its loss by the number of all of them.

    Trainer of transformers asks for that under gradient accumulation and over processes; some models, and
    the losses of several labels an image, take the number and do not use it. In a compiled graph that cannot
    be seen, and it is taken to be used.
    """
    all_items, labels = options.get(ALL_ITEMS), options.get("labels")
    if all_items is None:
        return 1.0
    if isinstance(all_items, Noticed):
        if not all_items.uses:
            return 1.0
        all_items = all_items.as_subclass(torch.Tensor)
    if labels is None:
        raise RuntimeError("expected labels beside num_items_in_batch, got none; pass them by name")
    share: torch.Tensor = labels.ne(-100).sum() / torch.as_tensor(all_items, device=labels.device)
    return share
