"""What is published of the models: where their weights are, under which licence, and their scores.

The scores are those of the publications, never ours. Weights are not fetched: no hash of the released files
is known here, and nothing is downloaded without one. Get them from the page, then `tapadl convert`.
"""

from dataclasses import dataclass

TAPADL_PAPER = "Guo, Stutz, Schiele, ICCV 2023, arXiv:2303.11126"
TAPADL_PAGE = "https://github.com/guoyongcs/TAPADL"
FAN_PAGE = "https://github.com/NVlabs/FAN"
RVT_PAGE = "https://github.com/vtddggg/Robust-Vision-Transformer"
FAN_LICENCE = "non-commercial use only, says the release of FAN"
UNKNOWN_LICENCE = "see the page"


@dataclass(frozen=True)
class Published:
    """What is published of one model.

    Args:
        page: Where the weights are offered.
        licence: Of the weights.
        source: Where the scores stand.
        top1: Accuracy on ImageNet, percent.
        mce: Mean corruption error on ImageNet-C, percent, lower is better.
        imagenet_a: Accuracy on ImageNet-A, percent.
        mfr: Mean flip rate on ImageNet-P, percent, lower is better.
    """

    page: str
    licence: str
    source: str
    top1: float
    mce: float
    imagenet_a: float | None = None
    mfr: float | None = None


PUBLISHED = {
    "fan_base_16_p4_hybrid": Published(FAN_PAGE, FAN_LICENCE, TAPADL_PAPER, top1=83.9, mce=46.1),
    "tap_fan_base_16_p4_hybrid": Published(
        TAPADL_PAGE, FAN_LICENCE, TAPADL_PAPER, top1=84.3, mce=43.7, imagenet_a=42.3, mfr=29.2
    ),
    "rvt_tiny_plus": Published(RVT_PAGE, UNKNOWN_LICENCE, TAPADL_PAPER, top1=79.2, mce=57.0),
    "rvt_small_plus": Published(RVT_PAGE, UNKNOWN_LICENCE, TAPADL_PAPER, top1=81.9, mce=49.4),
    "rvt_base_plus": Published(RVT_PAGE, UNKNOWN_LICENCE, TAPADL_PAPER, top1=82.7, mce=46.8, imagenet_a=28.5),
    "tap_rvt_base_plus": Published(
        TAPADL_PAGE, UNKNOWN_LICENCE, TAPADL_PAPER, top1=83.1, mce=44.7, imagenet_a=32.7, mfr=29.6
    ),
}
