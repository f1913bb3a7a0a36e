"""Settings of the demo. Light to import: no torch."""

import math
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from tapadl.training.config import LARGEST_SEED, AugmentationConfig, TrainingConfig

Variant = Literal["plain", "tap", "adl", "tap+adl", "plain-equal-time"]
VARIANTS: tuple[Variant, ...] = ("plain", "tap", "adl", "tap+adl", "plain-equal-time")
EQUAL_TIME: Variant = "plain-equal-time"

# Named one by one: what the demo reports must not change when the library learns another corruption.
DEMO_CORRUPTIONS = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "motion_blur",
    "zoom_blur",
    "gaussian_blur",
    "fog",
    "brightness",
    "contrast",
    "pixelate",
    "jpeg_compression",
)


@dataclass(frozen=True)
class ModelConfig:
    """The vision transformer that the demo trains; the mean of the tokens is classified.

    Args:
        image_size: Side of the square images, in pixels.
        patch_size: Side of a patch.
        embed_dim: Width.
        depth: Blocks.
        num_heads: Heads an attention.
        mlp_ratio: Hidden width of the MLPs over `embed_dim`.
        num_branches: K, for the variants with TAP.

    Raises:
        ValueError: If a size is below 1, or sizes do not fit one another.
    """

    image_size: int = 28
    patch_size: int = 4
    embed_dim: int = 64
    depth: int = 4
    num_heads: int = 4
    mlp_ratio: float = 2.0
    num_branches: int = 4

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not (math.isfinite(value) and value >= 1):
                raise ValueError(f"expected {item.name} of at least 1, got {value}")
        if self.image_size % self.patch_size:
            raise ValueError(
                f"expected image_size to be a multiple of patch_size, "
                f"got {self.image_size} and {self.patch_size}"
            )
        # a quarter of the width each for sine and cosine of row and column
        for name, divisor in (("num_heads", self.num_heads), ("4", 4)):
            if self.embed_dim % divisor:
                raise ValueError(
                    f"expected embed_dim to be a multiple of {name}, got {self.embed_dim} and {divisor}"
                )


@dataclass(frozen=True)
class DemoSettings:
    """Everything that decides what a demo finds.

    Args:
        variants: What is trained.
        seeds: How many times each, with seeds `first_seed`, `first_seed` + 1, ...
        first_seed: See `seeds`.
        data: "embedded", or "full" for all of Fashion-MNIST.
        evaluate_on: Part of the data that is corrupted; "validation" while settings are chosen.
        train_images: Use the first so many; None for all.
        evaluation_images: Use the first so many; None for all.
        corruptions: Names in `CORRUPTIONS`.
        severities: 1 to 5.
        corruption_seed: Of the corrupted images, the same for every model.
        device: Where models are trained and evaluated.
        training: Of every variant; its seed is replaced by each of `seeds`.
        augmentation: Of every variant.
        model: Of every variant.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> list(DemoSettings(seeds=2, first_seed=5).seed_range)
        [5, 6]
    """

    variants: tuple[Variant, ...] = ("plain", "tap+adl")
    seeds: int = 1
    first_seed: int = 0
    data: Literal["embedded", "full"] = "embedded"
    evaluate_on: Literal["test", "validation"] = "test"
    train_images: int | None = None
    evaluation_images: int | None = 2_000
    corruptions: tuple[str, ...] = DEMO_CORRUPTIONS
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    corruption_seed: int = 0
    device: str = "cpu"
    training: TrainingConfig = field(default_factory=TrainingConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    model: ModelConfig = field(default_factory=ModelConfig)

    def __post_init__(self) -> None:
        for variant in self.variants:
            if variant not in VARIANTS:
                raise ValueError(f"expected variants out of {', '.join(VARIANTS)}, got {variant!r}")
        if not self.variants or len(set(self.variants)) < len(self.variants):
            raise ValueError(f"expected at least one variant, each once, got {list(self.variants)}")
        for name in ("seeds", "train_images", "evaluation_images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"expected {name} of at least 1, got {value}")
        if self.first_seed < 0 or self.seed_range[-1] > LARGEST_SEED:
            raise ValueError(
                f"expected first_seed of at least 0 and a last seed of at most {LARGEST_SEED}, "
                f"got {self.first_seed} and {self.seed_range[-1]}"
            )
        if not self.severities or not set(self.severities) <= {1, 2, 3, 4, 5}:
            raise ValueError(f"expected severities from 1 to 5, got {list(self.severities)}")
        if not self.corruptions:
            raise ValueError("expected at least one corruption, got none")
        for name in ("severities", "corruptions"):
            given = getattr(self, name)
            if len(set(given)) < len(given):
                raise ValueError(f"expected {name} each once, got {' '.join(map(str, given))}")

    @property
    def seed_range(self) -> range:
        """The seeds of the runs."""
        return range(self.first_seed, self.first_seed + self.seeds)

    def training_with(self, seed: int) -> TrainingConfig:
        """The training settings of one run."""
        return replace(self.training, seed=seed)

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        content: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            content[item.name] = list(value) if isinstance(value, tuple) else value
        nested = {name: asdict(getattr(self, name)) for name in ("training", "augmentation", "model")}
        # every run has its own
        del nested["training"]["seed"]
        return content | nested


def quick(settings: DemoSettings) -> DemoSettings:
    """The same in seconds: one epoch on 4,000 images, 500 images to evaluate, severities 1, 3 and 5."""
    return replace(
        settings,
        train_images=4_000,
        evaluation_images=500,
        severities=(1, 3, 5),
        training=replace(settings.training, epochs=1),
    )
