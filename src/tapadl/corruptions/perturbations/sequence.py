"""What each perturbation is, and its constants at an image size."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from tapadl.corruptions.severity import Constants, constants_for

Group = Literal["noise", "blur", "weather", "digital"]

FRAMES = 31
"""Frames of every sequence."""


@dataclass(frozen=True)
class Perturbation:
    """One perturbation as data; its function of the same name makes the frames.

    Attributes:
        name: Published name.
        group: "noise", "blur", "weather" or "digital".
        in_mfr: Whether it is one of the ten that make up the mean flip rate; the others are for validation.
        constants: For sides of 224, 64 and 32 pixels.
        in_pixels: Those constants that are lengths in pixels and therefore grow with the image.
        random: Whether it draws random numbers; if not, seed and index change nothing.

    The first frame of a noise is clean and the others draw afresh: they are compared with the first. All
    other perturbations go on from frame to frame: each is compared with the one before it.

    Source: Hendrycks and Dietterich, ICLR 2019, arXiv:1903.12261, section 3, and the authors' generator
        scripts for the constants; docs/perturbations.md says what is ours.

    Example:
        >>> PERTURBATIONS["tilt"].group, PERTURBATIONS["tilt"].constants[224]
        ('digital', {'step': 1})
        >>> sum(row.in_mfr for row in PERTURBATIONS.values()), len(PERTURBATIONS)
        (10, 14)
    """

    name: str
    group: Group
    in_mfr: bool
    constants: Mapping[int, Mapping[str, float | tuple[float, ...]]]
    in_pixels: tuple[str, ...] = ()
    random: bool = False

    @property
    def difficulties(self) -> tuple[int, ...]:
        """Strengths there are: three of a noise, one of all others."""
        return (1, 2, 3) if self.group == "noise" else (1,)


def _noise(
    name: str,
    parameter: str,
    at_224: tuple[float, ...],
    at_64: tuple[float, ...],
    at_32: tuple[float, ...],
    *,
    in_mfr: bool,
) -> Perturbation:
    constants = {224: {parameter: at_224}, 64: {parameter: at_64}, 32: {parameter: at_32}}
    return Perturbation(name, "noise", in_mfr, constants, random=True)


def _same_for_all_sizes(**constants: float) -> Mapping[int, Mapping[str, float]]:
    return dict.fromkeys((224, 64, 32), constants)


_ROWS = (
    _noise(
        "gaussian_noise", "sigma", (0.03, 0.05, 0.08), (0.025, 0.05, 0.075), (0.02, 0.04, 0.06), in_mfr=True
    ),
    _noise("shot_noise", "photons", (300, 120, 60), (500, 250, 125), (700, 400, 200), in_mfr=True),
    Perturbation(
        "motion_blur",
        "blur",
        True,
        {
            224: {"radius": 10, "sigma": 3, "step": 4},
            64: {"radius": 7, "sigma": 2.2, "step": 5},
            32: {"radius": 6, "sigma": 1.8, "step": 6},
        },
        in_pixels=("radius", "sigma"),
    ),
    Perturbation("zoom_blur", "blur", True, _same_for_all_sizes(step=0.004)),
    Perturbation(
        "snow",
        "weather",
        True,
        {
            224: {"std": 0.3, "zoom": 3, "radius": 14, "sigma": 4},
            64: {"std": 0.28, "zoom": 2, "radius": 10, "sigma": 2.5},
            32: {"std": 0.3, "zoom": 2, "radius": 10, "sigma": 2},
        },
        in_pixels=("zoom", "radius", "sigma"),
        random=True,
    ),
    Perturbation(
        "brightness", "weather", True, {224: {"step": 0.02}, 64: {"step": 0.02}, 32: {"step": 0.015}}
    ),
    Perturbation(
        "translate", "digital", True, {224: {"step": 1}, 64: {"step": 1}, 32: {"step": 0.5}}, ("step",)
    ),
    Perturbation("rotate", "digital", True, _same_for_all_sizes(step=1)),
    Perturbation("tilt", "digital", True, {224: {"step": 1}, 64: {"step": 1}, 32: {"step": 0.75}}),
    Perturbation(
        "scale",
        "digital",
        True,
        {
            224: {"first": 0.4, "step": 0.025},
            64: {"first": 0.4, "step": 0.025},
            32: {"first": 0.7, "step": 0.02},
        },
    ),
    _noise("speckle_noise", "sigma", (0.05, 0.1, 0.15), (0.05, 0.1, 0.15), (0.05, 0.07, 0.1), in_mfr=False),
    Perturbation(
        "gaussian_blur",
        "blur",
        False,
        {
            224: {"first": 0.25, "step": 0.035},
            64: {"first": 0.35, "step": 0.014},
            32: {"first": 0.3, "step": 0.015},
        },
        in_pixels=("first", "step"),
    ),
    Perturbation(
        "spatter",
        "weather",
        False,
        {
            224: {
                "mean": 0.65,
                "std": 0.27,
                "blur_sigma": 3.7,
                "threshold": 0.69,
                "drip": (0.05, 0.1, 0.15, 0.7),
            },
            64: {"mean": 0.6, "std": 0.25, "blur_sigma": 1.75, "threshold": 0.7, "drip": (0.2, 0.8)},
            32: {"mean": 0.6, "std": 0.265, "blur_sigma": 1.75, "threshold": 0.7, "drip": (0.2, 0.8)},
        },
        # the noise grows as its filter does: a filter twice as wide leaves half of it
        in_pixels=("std", "blur_sigma"),
        random=True,
    ),
    Perturbation("shear", "digital", False, _same_for_all_sizes(step=1)),
)

PERTURBATIONS: Mapping[str, Perturbation] = MappingProxyType({row.name: row for row in _ROWS})
"""Every perturbation, by name: the ten of ImageNet-P, then the four for validation."""


def sequence_constants(perturbation: str, image_size: int, *, difficulty: int = 1) -> Constants:
    """Constants of a perturbation for images of a side length.

    Those of 224, 64 or 32 pixels, whichever is nearest in ratio; lengths in pixels grow with the side.

    Args:
        perturbation: A name in `PERTURBATIONS`.
        image_size: Side length of the frames in pixels, 1 to 65536; of oblong ones, the shorter side.
        difficulty: 1; of a noise also 2 and 3, the stronger versions.

    Returns:
        The values, the side they come from, and whether they were scaled.

    Raises:
        ValueError: If the name, the side or the difficulty is unknown.

    Example:
        >>> sequence_constants("gaussian_noise", 224, difficulty=2).values
        {'sigma': 0.05}
        >>> sequence_constants("translate", 48).values
        {'step': 0.75}
    """
    if perturbation not in PERTURBATIONS:
        raise ValueError(f"expected a perturbation out of {', '.join(PERTURBATIONS)}, got {perturbation!r}")
    row = PERTURBATIONS[perturbation]
    if isinstance(difficulty, bool) or difficulty not in row.difficulties:
        known = ", ".join(map(str, row.difficulties))
        raise ValueError(f"expected a difficulty of {perturbation} out of {known}, got {difficulty!r}")
    # the rule which published side is nearest is that of the corruptions
    published_size = constants_for("contrast", 1, image_size).published_size
    values = dict(row.constants[published_size])
    if row.group == "noise":
        values = {
            name: levels[difficulty - 1] for name, levels in values.items() if isinstance(levels, tuple)
        }
    scaled = bool(row.in_pixels) and image_size != published_size
    if scaled:
        factor = image_size / published_size
        values |= {name: value * factor for name, value in values.items() if name in row.in_pixels}  # type: ignore[operator]
    return Constants(values, published_size, scaled)
