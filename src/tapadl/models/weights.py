"""What is published of the models: where weights are offered, their licence and size, and scores.

The scores are those of the publications, never ours. Weights are not fetched: neither addresses nor hashes of
the released files are known here, and nothing is downloaded without a hash. Get them from the page, then
`tapadl convert`.
"""

from dataclasses import dataclass

from torch import nn

TAPADL_PAPER = "Guo, Stutz, Schiele, ICCV 2023, arXiv:2303.11126"
TAPADL_PAGE = "https://github.com/guoyongcs/TAPADL"
FAN_LICENCE = "non-commercial use only, says the release of FAN"
UNKNOWN_LICENCE = "see the page"
FAN_RECIPE = "recipes/fan_base_hybrid_tap_adl.yaml"
RVT_RECIPE = "recipes/rvt_base_tap_adl.yaml"
WITHOUT_BOTH = " with --tap.enabled false --adl.enabled false"


@dataclass(frozen=True)
class Release:
    """What the authors of a family of models have released.

    Args:
        page: Where weights are offered.
        licence: Of the weights.
    """

    page: str
    licence: str


@dataclass(frozen=True)
class Published:
    """What is published of one model.

    Args:
        source: Where the scores stand.
        top1: Accuracy on ImageNet, percent.
        mce: Mean corruption error on ImageNet-C, percent, lower is better.
        imagenet_a: Accuracy on ImageNet-A, percent.
        mfr: Mean flip rate on ImageNet-P, percent, lower is better.
        recipe: Our recipe after the published one.
    """

    source: str
    top1: float
    mce: float
    imagenet_a: float | None = None
    mfr: float | None = None
    recipe: str = ""


RELEASES = {
    "fan": Release("https://github.com/NVlabs/FAN", FAN_LICENCE),
    "tap_fan": Release(TAPADL_PAGE, FAN_LICENCE),
    "rvt": Release("https://github.com/vtddggg/Robust-Vision-Transformer", UNKNOWN_LICENCE),
    "tap_rvt": Release(TAPADL_PAGE, UNKNOWN_LICENCE),
}
"""What the names of the models of a family begin with -> its release."""

PUBLISHED = {
    "fan_base_16_p4_hybrid": Published(TAPADL_PAPER, top1=83.9, mce=46.1, recipe=FAN_RECIPE + WITHOUT_BOTH),
    "tap_fan_base_16_p4_hybrid": Published(
        TAPADL_PAPER, top1=84.3, mce=43.7, imagenet_a=42.3, mfr=29.2, recipe=FAN_RECIPE
    ),
    "rvt_tiny_plus": Published(TAPADL_PAPER, top1=79.2, mce=57.0),
    "rvt_small_plus": Published(TAPADL_PAPER, top1=81.9, mce=49.4),
    "rvt_base_plus": Published(
        TAPADL_PAPER,
        top1=82.7,
        mce=46.8,
        imagenet_a=28.5,
        recipe=RVT_RECIPE + " with --model.name rvt_base_plus --tap.enabled false --adl.enabled false",
    ),
    "tap_rvt_base_plus": Published(
        TAPADL_PAPER, top1=83.1, mce=44.7, imagenet_a=32.7, mfr=29.6, recipe=RVT_RECIPE
    ),
}


def release_of(model_name: str) -> Release:
    """The release of the family of a model.

    Example:
        >>> release_of("tap_rvt_tiny").page
        'https://github.com/guoyongcs/TAPADL'
    """
    return next(release for start, release in RELEASES.items() if model_name.startswith(f"{start}_"))


def expected_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers of a model.

    A released file has a little more, for names, and a multiple of it where it also holds an average of the
    weights or the state of an optimizer.

    Example:
        >>> expected_bytes(nn.Linear(2, 3))
        36
    """
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
