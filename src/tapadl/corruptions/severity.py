"""What each corruption is, and its constants at a severity and an image size."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType
from typing import Any, Literal

Group = Literal["noise", "blur", "weather", "digital"]
Value = float | tuple[float, ...]

SEVERITIES = (1, 2, 3, 4, 5)
PUBLISHED_SIZES = (224, 64, 32)
# Beyond any photograph; lengths in pixels grow with the side, and a kernel of that length would fill memory.
LARGEST_SIZE = 2**16


@dataclass(frozen=True)
class Corruption:
    """One corruption as data; its function of the same name lives in the module named by `group`.

    Attributes:
        name: Published name.
        group: "noise", "blur", "weather" or "digital".
        parameters: Names of its constants, in the order of `constants`.
        in_pixels: Those parameters that are lengths in pixels and therefore grow with the image.
        constants: For each published side length 224, 64, 32: the values of `parameters`, severity 1 to 5.
        in_mce: Whether it is one of the 15 that make up the mean corruption error.
        random: Whether it draws random numbers; if not, seed and index change nothing.

    Source: Hendrycks and Dietterich, ICLR 2019, arXiv:1903.12261, and the authors' generator scripts.

    Example:
        >>> CORRUPTIONS["defocus_blur"].group, CORRUPTIONS["defocus_blur"].parameters
        ('blur', ('radius', 'alias_blur'))
        >>> CORRUPTIONS["defocus_blur"].constants[224][4]
        (10, 0.5)
    """

    name: str
    group: Group
    parameters: tuple[str, ...]
    in_pixels: tuple[str, ...]
    constants: Mapping[int, tuple[tuple[Value, ...], ...]]
    in_mce: bool
    random: bool


@dataclass(frozen=True)
class Constants:
    """The constants a corruption uses, and where they come from, so that a result can state both.

    Attributes:
        values: Parameter name to value; lengths in pixels, everything else in units of an image in 0..1.
        published_size: Side length (224, 64 or 32) of the published version they were taken from.
        scaled: Whether lengths in pixels were multiplied by image size / published size.
    """

    values: Mapping[str, Value]
    published_size: int
    scaled: bool


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def _read_corruptions() -> Mapping[str, Corruption]:
    text = (resources.files(__package__) / "corruption_constants.json").read_text(encoding="utf-8")
    rows: dict[str, dict[str, Any]] = json.loads(text)
    return MappingProxyType(
        {
            name: Corruption(
                name=name,
                group=row["group"],
                parameters=_frozen(row["parameters"]),
                in_pixels=_frozen(row["in_pixels"]),
                constants=MappingProxyType({size: _frozen(row[str(size)]) for size in PUBLISHED_SIZES}),
                in_mce=row["in_mce"],
                random=row["random"],
            )
            for name, row in rows.items()
        }
    )


CORRUPTIONS: Mapping[str, Corruption] = _read_corruptions()
"""Every corruption that can be applied, by name, in published order: noise, blur, weather, digital."""


def constants_for(corruption: str, severity: int, image_size: int) -> Constants:
    """Constants of a corruption at a severity for images of a side length.

    224, 64 and 32 are published. Any other side takes the version nearest in ratio and multiplies its
    lengths in pixels by image_size / published_size; noise levels, factors and qualities stay as they are.

    Args:
        corruption: A name in `CORRUPTIONS`.
        severity: 1 to 5.
        image_size: Side length in pixels, 1 to 65536; of an oblong image, the shorter side.

    Returns:
        The values, the published version they come from, and whether they were scaled.

    Raises:
        ValueError: If the name is unknown, the severity is not 1 to 5 or the side is not 1 to 65536.

    Source: Hendrycks and Dietterich, ICLR 2019, for the published sizes; the scaling is ours.

    Example:
        >>> constants_for("motion_blur", 3, 32)
        Constants(values={'radius': 6, 'sigma': 2}, published_size=32, scaled=False)
        >>> constants_for("motion_blur", 3, 28)
        Constants(values={'radius': 5.25, 'sigma': 1.75}, published_size=32, scaled=True)
    """
    if corruption not in CORRUPTIONS:
        raise ValueError(f"expected a corruption out of {', '.join(CORRUPTIONS)}, got {corruption!r}")
    if isinstance(severity, bool) or not isinstance(severity, int) or severity not in SEVERITIES:
        raise ValueError(f"expected a severity out of 1, 2, 3, 4, 5, got {severity!r}")
    if isinstance(image_size, bool) or not isinstance(image_size, int) or not 1 <= image_size <= LARGEST_SIZE:
        raise ValueError(
            f"expected image_size to be an integer from 1 to {LARGEST_SIZE} pixels, got {image_size!r}"
        )
    row = CORRUPTIONS[corruption]
    published_size = min(PUBLISHED_SIZES, key=lambda size: max(size / image_size, image_size / size))
    values = dict(zip(row.parameters, row.constants[published_size][severity - 1], strict=True))
    if image_size == published_size or not row.in_pixels:
        return Constants(values, published_size, scaled=False)
    scaled = {name: _times(values[name], image_size / published_size) for name in row.in_pixels}
    return Constants(values | scaled, published_size, scaled=True)


def _times(value: Value, factor: float) -> Value:
    return tuple(item * factor for item in value) if isinstance(value, tuple) else value * factor
