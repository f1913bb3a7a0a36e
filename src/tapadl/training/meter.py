"""Means over steps and processes, kept on the device until they are asked for."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from tapadl.training.parallel import over_processes


class Meter:
    """The means of what steps report, since it was last read; and the first step whose loss was not finite.

    Nothing waits for the device before it is read.

    Args:
        device: Of this process.
    """

    def __init__(self, device: torch.device) -> None:
        self._first_bad = torch.full((1,), math.inf, device=device)
        self._clear()

    def add(self, step: int, parts: dict[str, torch.Tensor], images: float) -> None:
        """Take in a step.

        Args:
            step: Its number, from 1.
            parts: Scalars whose sum over processes is the mean over images; with the "loss".
            images: In all processes together.
        """
        bad = torch.where(parts["loss"].isfinite(), math.inf, float(step))
        self._first_bad = torch.minimum(self._first_bad, bad)
        self._images += images
        for name, value in parts.items():
            total, steps = self._sums.get(name, (torch.zeros_like(value), 0))
            self._sums[name] = total + value, steps + 1

    def first_bad_step(self) -> int | None:
        """The first step with a loss that was NaN or infinite, in any process."""
        (step,) = over_processes(self._first_bad, dist.ReduceOp.MIN)
        return None if math.isinf(step) else int(step)

    def read(self) -> dict[str, float]:
        """The means over images and steps, and images a second; begins anew."""
        names = sorted(self._sums)
        means = [self._sums[name][0] / self._sums[name][1] for name in names]
        values = dict(zip(names, over_processes(torch.stack(means)), strict=True)) if names else {}
        values["images_per_second"] = self._images / max(time.perf_counter() - self._since, 1e-9)
        self._clear()
        return values

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, no time passes for the images a second."""
        begun = time.perf_counter()
        yield
        self._since += time.perf_counter() - begun

    def _clear(self) -> None:
        self._sums: dict[str, tuple[torch.Tensor, int]] = {}
        self._images = 0.0
        self._since = time.perf_counter()
