"""A fixed subset of labelled images, as many of each class."""

from collections.abc import Sequence

import numpy as np

SUBSET_KEY = 230311126


def balanced_subset(labels: Sequence[int], class_names: Sequence[str], count: int) -> list[int]:
    """Which images make up the subset of `count`: a list that follows from a rule alone.

    The images of class k, in their order, get the first numbers of numpy's 64-bit Philox stream with key
    (230311126, k) and counter 0, one each; the count / classes images with the smallest numbers are taken.
    Random-looking, the same with every version of numpy, and a smaller subset lies inside a larger one.

    Args:
        labels: The class of each image, an index into `class_names`.
        class_names: One for each class.
        count: How many images, a multiple of the number of classes.

    Returns:
        Positions of the images, ascending.

    Raises:
        ValueError: If the classes cannot share `count` evenly or one has too few images.

    Example:
        >>> balanced_subset([0, 0, 0, 1, 1, 1], ["cat", "dog"], 4)
        [1, 2, 4, 5]
    """
    per_class, left_over = divmod(count, len(class_names))
    if count < 1 or left_over:
        raise ValueError(
            f"expected a subset of a multiple of {len(class_names)} images, as many of each class, "
            f"got {count}"
        )
    sizes = np.bincount(labels, minlength=len(class_names))
    smallest = int(sizes.argmin())
    if per_class > sizes[smallest]:
        raise ValueError(
            f"expected a subset of at most {sizes[smallest] * len(class_names)} images, {sizes[smallest]} of "
            f"each class as in {class_names[smallest]!r}, which has fewest, got {count}"
        )
    by_class = np.split(np.argsort(labels, kind="stable"), np.cumsum(sizes)[:-1])
    chosen = [members[draw_order(k, len(members))[:per_class]] for k, members in enumerate(by_class)]
    positions: list[int] = np.sort(np.concatenate(chosen)).tolist()
    return positions


def draw_order(position: int, size: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """`size` positions in an order that looks random, the same everywhere and another for each `position`."""
    # numpy promises the raw stream of a bit generator for good, not what Generator.permutation makes of it.
    stream = np.random.Philox(key=np.array([SUBSET_KEY, position], dtype=np.uint64))
    return np.argsort(stream.random_raw(size), kind="stable")
