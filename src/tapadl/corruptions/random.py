"""Random draws that belong to an image, not to a batch."""

import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


class Draws:
    """One stream of random numbers for each image of a batch, on the CPU.

    A stream depends on (seed, index, corruption, severity) and on nothing else, so an image gets the same
    numbers in any batch, order, worker or device. Philox is counter-based: the four become its key and
    counter, which costs no hashing and cannot collide.

    Args:
        seed: 0 to 2**64 - 1.
        indices: Position of each image in its data set, 0 to 2**63 - 1.
        corruption: Name of the corruption.
        severity: 1 to 5.

    Example:
        >>> together = Draws(0, [7, 8], "fog", 3).uniform(4)
        >>> alone = Draws(0, [8], "fog", 3).uniform(4)
        >>> bool((together[1] == alone[0]).all())
        True
    """

    def __init__(self, seed: int, indices: Sequence[int], corruption: str, severity: int) -> None:
        key = np.array([seed, zlib.crc32(corruption.encode()) << 8 | severity], dtype=np.uint64)
        # The stream counts up in the first word of the counter; the index in the last is out of its reach.
        self.generators = [
            np.random.Generator(
                np.random.Philox(counter=np.array([0, 0, 0, index], dtype=np.uint64), key=key)
            )
            for index in indices
        ]

    def normal(self, *shape: int) -> Floats:
        """Standard normal numbers, (B, *shape) float32."""
        return np.stack([generator.standard_normal(shape, dtype=np.float32) for generator in self.generators])

    def uniform(self, *shape: int) -> Floats:
        """Numbers uniform in 0..1, 1 excluded, (B, *shape) float32."""
        return np.stack([generator.random(shape, dtype=np.float32) for generator in self.generators])

    def poisson(self, means: Floats) -> Floats:
        """Poisson counts with the given means (B, ...), in their shape, float32."""
        pairs = zip(self.generators, means, strict=True)
        return np.stack([generator.poisson(mean).astype(np.float32) for generator, mean in pairs])
