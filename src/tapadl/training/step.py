"""One optimizer step over the micro-batches of every process."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import nn

from tapadl.attach.recomputation import statistics_left_alone
from tapadl.training.objective import Batch, Pass
from tapadl.training.parallel import gradient_norm, over_processes, share_buffers, synchronise_gradients
from tapadl.training.randomness import reseed
from tapadl.training.settings import Settings
from tapadl.training.state import TrainingState

_AUTOCAST = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Schedule(Protocol):
    """Sets the learning rate before each step, from nothing but the step; timm's schedulers do."""

    def step_update(self, num_updates: int) -> Any:
        """Set it for the step after `num_updates` steps."""


class Stepper:
    """Moves a run by one step.

    The gradient is that of the mean over all images of the step, however they are cut into processes and
    micro-batches.

    Args:
        settings: Of the run.
        state: What is moved.
        schedule: Of its optimizer.
        model: What is called: the model of the state, or what makes it one with those of other processes.
        device: Of this process.
    """

    def __init__(
        self,
        settings: Settings,
        state: TrainingState,
        schedule: Schedule,
        model: nn.Module,
        device: torch.device,
    ) -> None:
        self._training = settings.training
        self._clip_grad = settings.optimizer.clip_grad
        self._state = state
        self._schedule = schedule
        self._model = model
        self._device = device

    def step(self, micro_batches: Sequence[Batch], images_of_step: float) -> dict[str, torch.Tensor]:
        """Take a step.

        Args:
            micro_batches: Of this process.
            images_of_step: In all processes together.

        Returns:
            The parts of the loss; the sum over processes is the mean over images. "gradient_norm", alike in
            every process divided by their number, where it is known.
        """
        state, objective = self._state, self._state.objective
        self._schedule.step_update(state.step)
        batches = [self._moved(batch) for batch in micro_batches]
        # DDP and FSDP divide the sum over processes by their number
        shares = [len(images) * dist.get_world_size() / images_of_step for images, _ in batches]
        measured: dict[str, float] = {}
        measures = objective.measures(state.step)
        if measures:
            probes = self._planned(objective.probes, batches, shares)
            if probes:
                with ExitStack() as stack:  # the passes count these images
                    for module in state.model.modules():
                        if isinstance(module, nn.modules.batchnorm._BatchNorm):
                            stack.enter_context(statistics_left_alone(module))
                    self._backward(probes)
                measured["probe_norm"] = gradient_norm(state.model, None).item() / state.scaler.get_scale()
        parts = self._backward(self._planned(objective.passes, batches, shares))
        state.scaler.unscale_(state.optimizer)
        if measures or self._clip_grad is not None:
            norm = gradient_norm(state.model, self._clip_grad)
            parts["gradient_norm"] = norm / dist.get_world_size()
        state.scaler.step(state.optimizer)
        state.scaler.update()
        share_buffers(state.model)
        if state.average is not None:
            state.average.update()
        if measures:
            together = over_processes(torch.stack([value.double() for value in parts.values()]))
            measured |= dict(zip(parts, together, strict=True))
            objective.observe(measured)
        return parts

    def _planned(
        self,
        passes: Callable[[Batch, int], Sequence[Pass]],
        batches: Sequence[Batch],
        shares: Sequence[float],
    ) -> list[tuple[Pass, float]]:
        """The passes of all micro-batches, each with its share; what they draw follows from the step."""
        step = self._state.step
        reseed(self._training.seed, step, dist.get_rank())
        return [
            (run, share) for batch, share in zip(batches, shares, strict=True) for run in passes(batch, step)
        ]

    def _backward(self, passes: Sequence[tuple[Pass, float]]) -> dict[str, torch.Tensor]:
        """The gradient of all passes together; the parts of this process, summed with their shares."""
        world_size = dist.get_world_size()
        dtype = _AUTOCAST[self._training.precision]
        self._state.optimizer.zero_grad()
        sums: dict[str, torch.Tensor] = {}
        for index, (run, share) in enumerate(passes):
            synchronise_gradients(self._model, index == len(passes) - 1)
            with torch.autocast(self._device.type, dtype=dtype, enabled=dtype is not None):
                parts = run(self._model)
            self._state.scaler.scale(parts["loss"] * share).backward()
            for name, value in parts.items():
                part = value.detach().float() * (share / world_size)
                sums[name] = sums[name] + part if name in sums else part
        return sums

    def _moved(self, batch: Batch) -> Batch:
        images, targets = (tensor.to(self._device, non_blocking=True) for tensor in batch)
        if self._training.channels_last and images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        return images, targets
