"""Running models over the cells of a benchmark: clean images and corruption x severity."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from tapadl.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from tapadl.demo.result import CellResult

CLEAN = "clean"


@dataclass(frozen=True)
class Cell:
    """One condition of a benchmark.

    Args:
        corruption: Name of a corruption, or "clean".
        severity: 1 to 5; 0 for clean.
    """

    corruption: str
    severity: int


def benchmark_cells(
    corruptions: Sequence[str] | None = None, severities: Sequence[int] = SEVERITIES
) -> tuple[Cell, ...]:
    """The clean cell, then every corruption at every severity.

    Args:
        corruptions: Names; None for all.
        severities: 1 to 5.

    Raises:
        ValueError: If a name or a severity is unknown.

    Example:
        >>> [(cell.corruption, cell.severity) for cell in benchmark_cells(["fog"], [1, 5])]
        [('clean', 0), ('fog', 1), ('fog', 5)]
    """
    names = list(CORRUPTIONS) if corruptions is None else list(corruptions)
    for name in names:
        if name not in CORRUPTIONS:
            raise ValueError(f"expected corruptions out of {', '.join(CORRUPTIONS)}, got {name!r}")
    for severity in severities:
        if severity not in SEVERITIES:
            raise ValueError(f"expected severities from 1 to 5, got {severity!r}")
    return (Cell(CLEAN, 0), *(Cell(name, severity) for name in names for severity in severities))


class CorruptedImages:
    """The images of a benchmark in every cell, each made once, when first asked for, and kept.

    What an image looks like follows from (seed, its index, corruption, severity), so that every model sees
    the same. Values are rounded to 8 bits, as in a stored benchmark.

    Args:
        images: (N, C, H, W), uint8.
        seed: Of the corruptions.
        batch_size: Images corrupted at a time; changes nothing in them.

    Example:
        >>> images = torch.zeros(3, 1, 28, 28, dtype=torch.uint8)
        >>> CorruptedImages(images, seed=0).in_cell(Cell("brightness", 5)).shape
        torch.Size([3, 1, 28, 28])
    """

    def __init__(self, images: torch.Tensor, *, seed: int, batch_size: int = 1000) -> None:
        self._clean = images
        self._seed = seed
        self._batch_size = batch_size
        self._made: dict[Cell, torch.Tensor] = {}

    def in_cell(self, cell: Cell) -> torch.Tensor:
        """All images under the condition of a cell, (N, C, H, W), uint8."""
        if cell.corruption == CLEAN:
            return self._clean
        if cell not in self._made:
            parts = [self._corrupt(cell, start) for start in range(0, len(self._clean), self._batch_size)]
            self._made[cell] = torch.cat(parts)
        return self._made[cell]

    def _corrupt(self, cell: Cell, start: int) -> torch.Tensor:
        images = self._clean[start : start + self._batch_size]
        indices = torch.arange(start, start + len(images))
        corrupted = corrupt(images / 255, cell.corruption, cell.severity, seed=self._seed, indices=indices)
        return (corrupted * 255).round().byte()


def evaluate_cells(
    models: Mapping[str, nn.Module],
    images: CorruptedImages,
    labels: torch.Tensor,
    cells: Sequence[Cell],
    *,
    count_errors: Callable[[nn.Module, torch.Tensor, torch.Tensor], int],
    on_cell: Callable[[Cell], None] | None = None,
) -> dict[str, tuple[CellResult, ...]]:
    """Count the errors of models in every cell, all models on the same images.

    Args:
        models: By name.
        images: Makes the images of a cell.
        labels: (N,), int64.
        cells: In the order of the results.
        count_errors: Gives the number of wrong answers of a model on images and labels.
        on_cell: Called after every cell.

    Returns:
        For every model one result a cell.
    """
    results: dict[str, list[CellResult]] = {name: [] for name in models}
    for cell in cells:
        shown = images.in_cell(cell)
        for name, model in models.items():
            errors = count_errors(model, shown, labels)
            results[name].append(CellResult(cell.corruption, cell.severity, errors, len(labels)))
        if on_cell is not None:
            on_cell(cell)
    return {name: tuple(cell_results) for name, cell_results in results.items()}
