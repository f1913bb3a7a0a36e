"""An exponential moving average of weights, kept beside them and put in their place to evaluate."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """average <- decay * average + (1 - decay) * weights, after every step.

    timm and torch average a deep copy of the model. Here it is the tensors alone: a sharded model cannot be
    copied, and hooks that listen to the model are not to be doubled.

    Args:
        model: Whose parameters and floating-point buffers are averaged; the average begins with them.
        decay: In (0, 1), the share of the old average that stays.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.zeros_(model.weight)
        >>> average = WeightAverage(model, decay=0.9)
        >>> _ = nn.init.ones_(model.weight)
        >>> average.update()
        >>> with average.in_place():
        ...     round(model.weight.item(), 6)
        0.1
        >>> model.weight.item()
        1.0
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._sharded = [part for part in model.modules() if isinstance(part, FSDPModule)]
        self._weights = {
            name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()
        }
        self.tensors = {name: tensor.clone() for name, tensor in self._weights.items()}
        self._average = get_ema_multi_avg_fn(decay)

    def update(self) -> None:
        """Take in the weights as they are now."""
        # buffers are whole where parameters are sharded, and one operator takes no mixture of both
        self._average(_local(self.tensors), _local(self._weights), 0)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the model has the averaged weights; afterwards its own again, bit for bit."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for part in self._sharded:
            # one that was evaluated last still has the weights it had gathered
            part.reshard()
        # all at once: one tensor may have several names
        kept = {name: weight.clone() for name, weight in self._weights.items()}
        for name, weight in self._weights.items():
            weight.copy_(self.tensors[name])
        for name, average in self.tensors.items():
            average.copy_(kept[name])


def _local(tensors: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors.values()]
