"""Between the numbers in a label file and the classes of a model."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

IGNORE = 255
"""The class of pixels that do not count."""

Mask = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class LabelScheme:
    """Classes by name, the number that stands for each in label files, and its colour in pictures.

    Args:
        class_names: In the order of the model's outputs; at most 255.
        values: The number of each class in label files, 0 to 255.
        ignored: Numbers of pixels that do not count. Any number beside these and `values` is an error.
        colours: (red, green, blue) of each class, 0 to 255.

    Raises:
        ValueError: If these do not fit one another.

    Example:
        >>> scheme = LabelScheme(("road", "sky"), (7, 23), (0,), ((128, 64, 128), (70, 130, 180)))
        >>> scheme.to_classes(np.array([[7, 23, 0]], np.uint8))
        array([[  0,   1, 255]], dtype=uint8)
    """

    class_names: tuple[str, ...]
    values: tuple[int, ...] = field(repr=False)
    ignored: tuple[int, ...] = field(repr=False)
    colours: tuple[tuple[int, int, int], ...] = field(repr=False)

    def __post_init__(self) -> None:
        count = len(self.class_names)
        if not 1 <= count <= IGNORE:
            raise ValueError(f"expected 1 to {IGNORE} classes, got {count}")
        if len(set(self.class_names)) < count or not all(
            name.isprintable() and name.strip() for name in self.class_names
        ):
            raise ValueError(
                f"expected a name of its own for each class, in one line, got {self.class_names}"
            )
        if len(self.values) != count or len(self.colours) != count:
            raise ValueError(
                f"expected a value and a colour for each of {count} classes, "
                f"got {len(self.values)} and {len(self.colours)}"
            )
        numbers = (*self.values, *self.ignored)
        if len(set(numbers)) < len(numbers) or not all(0 <= number <= 255 for number in numbers):
            raise ValueError(f"expected different values from 0 to 255, got {numbers}")
        odd = [colour for colour in self.colours if not all(0 <= part <= 255 for part in colour)]
        if odd:
            raise ValueError(f"expected parts of colours from 0 to 255, got {odd[0]}")

    @property
    def num_classes(self) -> int:
        """How many."""
        return len(self.class_names)

    def to_classes(self, values: Mask) -> Mask:
        """Classes of the numbers in a label file; `IGNORE` for those that do not count.

        Raises:
            ValueError: If a number is neither a class nor one to ignore; it says which.
        """
        table = np.full(256, IGNORE, dtype=np.uint8)
        table[list(self.values)] = np.arange(self.num_classes)
        known = np.zeros(256, dtype=bool)
        known[[*self.values, *self.ignored]] = True
        if not known[values].all():
            strangers = np.flatnonzero((np.bincount(values.ravel(), minlength=256) > 0) & ~known)
            raise ValueError(
                f"expected labels out of {', '.join(map(str, sorted(self.values)))} for classes and "
                f"{', '.join(map(str, sorted(self.ignored))) or 'none'} to ignore, got {strangers[0]}"
            )
        return table[values]

    def to_values(self, classes: Mask) -> Mask:
        """Numbers of classes, as label files have them.

        Raises:
            ValueError: If a number is no class.
        """
        self._check(classes)
        return np.array(self.values, dtype=np.uint8)[classes]

    def paint(self, classes: Mask) -> npt.NDArray[np.uint8]:
        """Colours (H, W, 3) of classes (H, W); black where `IGNORE`."""
        table = np.zeros((256, 3), dtype=np.uint8)
        table[: self.num_classes] = self.colours
        return table[classes]

    def _check(self, classes: Mask) -> None:
        if classes.size and classes.max() >= self.num_classes:
            raise ValueError(f"expected classes below {self.num_classes}, got {classes.max()}")


def distinct_colours(count: int) -> tuple[tuple[int, int, int], ...]:
    """A colour for each class of a data set that has none of its own, as far apart as so many can be.

    Source: hue and lightness are the two coordinates of the R2 sequence, M. Roberts, "The Unreasonable
        Effectiveness of Quasirandom Sequences", 2018.

    Example:
        >>> len(set(distinct_colours(150)))
        150
    """
    turns, lightness = np.arange(1, count + 1) * np.array([[0.7548776662466927], [0.5698402909980532]]) % 1
    angles = 2 * np.pi * (turns[:, None] - np.array([0, 1 / 3, 2 / 3]))
    channels = (255 * (0.3 + 0.45 * lightness[:, None] + 0.25 * np.cos(angles))).astype(int)
    return tuple((int(red), int(green), int(blue)) for red, green, blue in channels)


_CITYSCAPES: Sequence[tuple[str, int, tuple[int, int, int]]] = (
    ("road", 7, (128, 64, 128)),
    ("sidewalk", 8, (244, 35, 232)),
    ("building", 11, (70, 70, 70)),
    ("wall", 12, (102, 102, 156)),
    ("fence", 13, (190, 153, 153)),
    ("pole", 17, (153, 153, 153)),
    ("traffic light", 19, (250, 170, 30)),
    ("traffic sign", 20, (220, 220, 0)),
    ("vegetation", 21, (107, 142, 35)),
    ("terrain", 22, (152, 251, 152)),
    ("sky", 23, (70, 130, 180)),
    ("person", 24, (220, 20, 60)),
    ("rider", 25, (255, 0, 0)),
    ("car", 26, (0, 0, 142)),
    ("truck", 27, (0, 0, 70)),
    ("bus", 28, (0, 60, 100)),
    ("train", 31, (0, 80, 100)),
    ("motorcycle", 32, (0, 0, 230)),
    ("bicycle", 33, (119, 11, 32)),
)

_NAMES, _VALUES, _COLOURS = zip(*_CITYSCAPES, strict=True)

CITYSCAPES = LabelScheme(
    class_names=_NAMES,
    values=_VALUES,
    # the licence plate is -1, which files of 8 bits hold as 255
    ignored=tuple(number for number in (*range(34), 255) if number not in _VALUES),
    colours=_COLOURS,
)
"""The 19 classes that count in Cityscapes, by the numbers in its labelIds files.

Source: Cordts et al., "The Cityscapes Dataset", CVPR 2016, arXiv:1604.01685, and the labels of its authors.
"""

CITYSCAPES_TRAIN_IDS = LabelScheme(_NAMES, tuple(range(19)), (255,), _COLOURS)
"""The same classes by the numbers in labelTrainIds files."""
