"""What the metrics share: counts that add up over batches and processes, and checks of class indices."""

import torch
import torch.distributed as dist


class Metric:
    """Counts that add up: over batches, processes (`sync`) and parts of a run (`counts`, `add_counts`).

    The state is one int64 tensor. Sums of integers have no rounding, so any batching and any split over
    processes gives the same value, to the last bit. It lives on the device of the last batch.

    Args:
        shape: Of the counts.
    """

    def __init__(self, *shape: int) -> None:
        self._counts = torch.zeros(shape, dtype=torch.int64)
        self._synced = False

    def reset(self) -> None:
        """Forget every batch."""
        self._counts = torch.zeros_like(self._counts)
        self._synced = False

    def sync(self, group: "dist.ProcessGroup | None" = None) -> None:
        """Add up the counts of all processes; a single process keeps its own.

        Every process of the group calls it once, after its last batch, also one that saw none.

        Args:
            group: Of torch.distributed; None for all processes.

        Raises:
            RuntimeError: If the counts are those of all processes already.
        """
        self._check_unsynced("sync")
        self._synced = True
        if dist.is_available() and dist.is_initialized():
            # All processes must name the same device, whatever their batches were on.
            on_cpu = "cpu" in dist.get_backend_config(group)
            device = torch.device("cpu") if on_cpu else torch.accelerator.current_accelerator()
            # A copy: what was counted under inference_mode must not be changed in place outside it.
            self._counts = self._counts.to(device, copy=True)
            dist.all_reduce(self._counts, group=group)

    @property
    def counts(self) -> torch.Tensor:
        """A copy of the state, int64: what to save of an unfinished evaluation and give to `add_counts`."""
        return self._counts.clone()

    def add_counts(self, counts: torch.Tensor) -> None:
        """Add the `counts` of a metric with the same arguments.

        Raises:
            ValueError: If they are those of another metric.
            RuntimeError: After `sync`.
        """
        self._check_unsynced("update")
        if counts.dtype != torch.int64 or counts.shape != self._counts.shape:
            raise ValueError(
                f"expected counts of shape {tuple(self._counts.shape)} and dtype torch.int64, "
                f"got {tuple(counts.shape)} and {counts.dtype}"
            )
        self._counts = self._counts.to(counts.device) + counts

    def _total(self) -> torch.Tensor:
        """All counts on the CPU; something must have been counted."""
        counts = self._counts.cpu()
        if not counts.any():
            raise RuntimeError(
                f"expected something counted before {type(self).__name__}.compute(), got nothing; "
                "call update() first"
            )
        return counts

    def _check_unsynced(self, call: str) -> None:
        if self._synced:
            raise RuntimeError(
                f"expected {call}() before sync(), got it after: other processes would count twice; "
                "call reset() first"
            )


def predicted_classes(predictions: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Predicted classes out of classes or logits.

    Args:
        predictions: (B,) classes, or (B, C) logits.
        labels: (B,) classes, on the same device.

    Returns:
        (B,) classes.

    Raises:
        ValueError: If they do not fit one another, a class is out of range, or a logit is NaN.
    """
    check_class_indices(labels, "labels")
    if predictions.ndim == 1 and predictions.shape == labels.shape:
        check_class_indices(predictions, "predictions")
        return predictions
    if predictions.ndim != 2 or labels.ndim != 1 or len(predictions) != len(labels):
        raise ValueError(
            "expected labels of shape (B,) and predictions of shape (B,) or logits of shape (B, C), "
            f"got {tuple(labels.shape)} and {tuple(predictions.shape)}"
        )
    check_class_indices(labels, "labels", predictions.shape[1])
    if predictions.isnan().any():
        raise ValueError("expected logits that are numbers, got NaN")
    return predictions.argmax(dim=1)


def check_class_indices(indices: torch.Tensor, name: str, num_classes: int | None = None) -> None:
    """Refuse what is not an integer tensor with values in 0..num_classes - 1.

    Raises:
        ValueError: Naming the argument and what it holds.
    """
    if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
        raise ValueError(f"expected {name} as integers, class indices, got {indices.dtype}")
    if indices.numel() == 0:
        return
    low, high = (int(value) for value in indices.aminmax())
    if low < 0 or (num_classes is not None and high >= num_classes):
        most = "" if num_classes is None else f"{num_classes - 1}"
        raise ValueError(f"expected {name} in 0..{most}, got values from {low} to {high}")
