"""What is trained: the model, TAP inside it, the attention diversification loss beside it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tapadl.training.settings.checks import (
    AT_LEAST_0,
    AT_LEAST_1,
    INSIDE_FRACTION,
    POSITIVE,
    Interval,
    check_choices,
    check_distinct,
    check_named,
    check_numbers,
    refuse,
)


@dataclass(frozen=True)
class ModelSettings:
    """The model that is trained.

    Args:
        name: Name in timm, or module:function; such a function returns a model, or (model, Preprocessing).
        pretrained: Start from timm's weights; they are downloaded.
        checkpoint: Start from the weights in this file; the head is made anew for other classes.
        img_size: Side in pixels, null: the model's; images are square.
        drop_path: Stochastic depth, null: the model's; in [0, 1).
        options: Further ones, as --model.options.depth 6; {depth: 6} in a file.

    Raises:
        ValueError: If a value is out of range, or two starting points are named.

    Example:
        >>> ModelSettings("deit_tiny_patch16_224", drop_path=1.5)
        Traceback (most recent call last):
        ValueError: expected model.drop_path to be at least 0 and below 1, got 1.5
    """

    name: str
    pretrained: bool = False
    checkpoint: Path | None = None
    img_size: int | None = None
    drop_path: float | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_named(self, "name")
        check_numbers(self, AT_LEAST_1, "img_size")
        check_numbers(self, Interval(0, 1, without_high=True), "drop_path")
        if not all(isinstance(name, str) and name.isidentifier() for name in self.options):
            raise refuse(self, "options", "to have names of arguments as keys")
        if self.pretrained and self.checkpoint is not None:
            raise refuse(self, "checkpoint", "to be null where model.pretrained is true")


@dataclass(frozen=True)
class TapSettings:
    """Token-aware average pooling, in front of the attention.

    Args:
        enabled: Put TAP into the model; one whose name begins with tap_ has it already.
        num_branches: The identity, and dilations 1, 2, ...; K in the paper.
        temperature: Of the softmax over the branches; above 0.
        init: paper, or identity for pretrained weights; identity changes no output at first.
        blocks: Attentions by number, [0, 1], null: all; in order, from 0.

    Raises:
        ValueError: If a value is out of range.

    Source:
        Guo, Stutz, Schiele, ICCV 2023: 4 branches, temperature 1, every block.
    """

    enabled: bool = True
    num_branches: int = 4
    temperature: float = 1.0
    init: Literal["paper", "identity"] = "paper"
    blocks: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_choices(self)
        check_numbers(self, AT_LEAST_1, "num_branches")
        check_numbers(self, POSITIVE, "temperature")
        _check_blocks(self)


@dataclass(frozen=True)
class AdlSettings:
    """The attention diversification loss (ADL).

    `target_share` and `tau_quantile` are adaptive choices that the paper leaves open; null, as they are by
    default, keeps what the paper does.

    Args:
        enabled: Add weight x ADL to the loss.
        weight: Of ADL in the loss; where target_share is given, of the first step.
        tau: Threshold, in multiples of 1 / keys; where tau_quantile is given, of the first step.
        warmup: Steps over which the weight rises from 0; linearly.
        blocks: Attentions by number, [0, 1], null: all; in order, from 0.
        patch_tokens_only: Leave out class and other prefix tokens; as queries and as keys.
        query_fraction: Share of the queries it is computed of; drawn anew each step, below 1 cheaper and
            biased.
        target_share: Adapt the weight to this share, null: off; of ADL in the gradient, in (0, 1).
        tau_quantile: Adapt tau to this quantile, null: off; of the averaged attention, in (0, 1).

    Raises:
        ValueError: If a value is out of range.

    Source:
        Guo, Stutz, Schiele, ICCV 2023: weight 1, tau 2, every block, every token.
    """

    enabled: bool = True
    weight: float = 1.0
    tau: float = 2.0
    warmup: int = 0
    blocks: tuple[int, ...] | None = None
    patch_tokens_only: bool = False
    query_fraction: float = 1.0
    target_share: float | None = None
    tau_quantile: float | None = None

    def __post_init__(self) -> None:
        check_numbers(self, AT_LEAST_0, "weight", "tau", "warmup")
        check_numbers(self, Interval(0, 1, without_low=True), "query_fraction")
        check_numbers(self, INSIDE_FRACTION, "target_share", "tau_quantile")
        if self.target_share is not None and self.weight == 0:
            raise refuse(self, "weight", "to be above 0 to begin with where adl.target_share is given")
        _check_blocks(self)


def _check_blocks(settings: TapSettings | AdlSettings) -> None:
    check_numbers(settings, AT_LEAST_0, "blocks")
    check_distinct(settings, "blocks")
    if settings.blocks == ():
        raise refuse(settings, "blocks", "to name a block; switch all off with enabled: false")
