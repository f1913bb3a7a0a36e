"""Which images each optimizer step sees: an order of every epoch, cut alike for any number of processes."""

from collections.abc import Iterator
from dataclasses import dataclass

from tapadl.training.order import epoch_order

Place = tuple[int, int]
"""(epoch, index): what a `TrainingSet` takes."""


@dataclass(frozen=True)
class EpochBatches:
    """Batches of one process, for every optimizer step of a training run.

    An epoch shows the images in an order that follows from (seed, epoch). Step k of it takes the k-th
    `batch_size` of them, the global batch, whatever the number of processes and of micro-batches. The
    global batch is cut into `world_size * accumulation` equal pieces in its order; rank r has the pieces
    from r * accumulation on. What is left of an epoch after its last whole batch is not shown.

    Args:
        num_samples: Images in the set.
        batch_size: Of an optimizer step: all processes and all accumulation together.
        seed: Of the training run.
        rank: Of this process.
        world_size: Number of processes.
        accumulation: Micro-batches of a step in one process.

    Raises:
        ValueError: If the batch cannot be cut evenly, there are fewer images than one batch, or the rank is
            none of the processes.

    Example:
        >>> batches = EpochBatches(10, batch_size=4, seed=0, rank=1, world_size=2)
        >>> batches.steps_per_epoch, [len(micro) for micro in next(batches.batches())]
        (2, [2])
    """

    num_samples: int
    batch_size: int
    seed: int
    rank: int = 0
    world_size: int = 1
    accumulation: int = 1

    def __post_init__(self) -> None:
        pieces = self.world_size * self.accumulation
        if min(self.batch_size, self.world_size, self.accumulation) < 1 or self.batch_size % pieces:
            raise ValueError(
                f"expected a batch_size that is a multiple of processes x accumulation "
                f"({self.world_size} x {self.accumulation}), got {self.batch_size}"
            )
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"expected a rank from 0 to {self.world_size - 1}, got {self.rank}")
        if self.num_samples < self.batch_size:
            raise ValueError(
                f"expected at least the images of one batch, {self.batch_size}, got {self.num_samples}; "
                "take a smaller batch_size"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch, the same in every process."""
        return self.num_samples // self.batch_size

    @property
    def micro_batch_size(self) -> int:
        """Images of one forward pass in one process."""
        return self.batch_size // (self.world_size * self.accumulation)

    def batches(self, start_step: int = 0) -> Iterator[list[list[Place]]]:
        """For every step from `start_step` on, without end, the micro-batches of this process.

        Args:
            start_step: Optimizer steps that were done before, in all epochs together.

        Raises:
            ValueError: If it is negative.
        """
        if start_step < 0:
            raise ValueError(f"expected start_step from 0, got {start_step}")
        epoch, done = divmod(start_step, self.steps_per_epoch)
        size = self.micro_batch_size
        while True:
            order = epoch_order(self.num_samples, seed=self.seed, epoch=epoch)
            for step in range(done, self.steps_per_epoch):
                start = step * self.batch_size + self.rank * self.accumulation * size
                ours = order[start : start + self.accumulation * size].view(self.accumulation, size)
                yield [[(epoch, index) for index in micro] for micro in ours.tolist()]
            epoch, done = epoch + 1, 0

    def micro_batches(self, start_step: int, stop_step: int) -> Iterator[list[Place]]:
        """The same one after the other, `accumulation` to a step: a `batch_sampler` for a loader.

        Args:
            start_step: The first step.
            stop_step: The step after the last.

        Raises:
            ValueError: If `start_step` is negative.
        """
        for _, step in zip(range(start_step, stop_step), self.batches(start_step), strict=False):
            yield from step
