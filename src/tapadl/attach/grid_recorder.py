"""The grid of the image that goes through a model, remembered for its blocks."""

from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from tapadl.attach.recomputation import recomputing
from tapadl.attach.site import GridMeasure


class GridRecorder:
    """Remembers the grid of the images going through a patch embedding, for the blocks behind it.

    Blocks computed again in a backward pass (gradient checkpointing) may belong to an earlier forward than
    the last, so grids are kept by their number of patches; two shapes of one number (8 x 4 and 4 x 8) in
    forwards that wait for one backward cannot be told apart there, which is an error.
    """

    def __init__(self, measure: GridMeasure) -> None:
        self.measure = measure
        self._latest: tuple[int, int] | None = None
        self._grids: dict[int, tuple[int, int]] = {}
        self._clashing: set[int] = set()
        self._backward_pending = False
        self.handle: RemovableHandle | None = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy knows no grid before it has seen an image: that of a block alone never does."""
        fresh = vars(type(self)(self.measure))
        return fresh | {"handle": self.handle}

    def record(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Forward pre-hook of the patch embedding."""
        rows, cols = self._latest = self.measure(module, inputs)
        if torch.compiler.is_compiling():
            return  # a compiled block is not called again, its graph is
        if not recomputing():
            if not self._backward_pending:
                self._clashing.clear()
            elif self._grids.get(rows * cols, (rows, cols)) != (rows, cols):
                self._clashing.add(rows * cols)
            self._backward_pending |= torch.is_grad_enabled()
        self._grids[rows * cols] = (rows, cols)

    def grid_of(self, num_patches: int) -> tuple[int, int] | None:
        """The grid of so many patches in this forward, or in the one that is computed again.

        Raises:
            RuntimeError: If forwards that wait for this backward had different grids of so many patches.
        """
        if not recomputing():
            latest = self._latest
            return latest if latest is not None and latest[0] * latest[1] == num_patches else None
        self._backward_pending = False
        if num_patches in self._clashing:
            raise RuntimeError(
                f"TAP under gradient checkpointing cannot tell apart images of different shapes with "
                f"{num_patches} patches in one backward; run the backward of each shape by itself, and "
                f"forwards without a backward under torch.no_grad()"
            )
        return self._grids.get(num_patches)
