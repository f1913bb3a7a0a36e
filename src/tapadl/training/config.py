"""Settings of a training run."""

import math
from dataclasses import dataclass

# Seeds that every generator in use takes.
LARGEST_SEED = 2**32 - 1


@dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained.

    Args:
        epochs: Passes over the training images, at least 1.
        steps: Optimizer steps in all, instead of whole epochs; None for `epochs` of them.
        batch_size: Images a step, at least 1; what is left of an epoch after full batches is not shown.
        learning_rate: AdamW's, after the warm-up and before the cosine decay to zero.
        weight_decay: AdamW's, for matrices; norms, biases and position embeddings have none.
        warmup_fraction: Part of the steps, in [0, 1), over which the learning rate rises linearly.
        label_smoothing: In [0, 1).
        adl_weight: Weight of the attention diversification loss, for the variants that use it.
        adl_tau: Its threshold multiple.
        seed: Data order and augmentation follow from it; at most 2^32 - 1.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> TrainingConfig(epochs=2, batch_size=50).total_steps(num_samples=1010)
        40
    """

    epochs: int = 4
    steps: int | None = None
    batch_size: int = 50
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    warmup_fraction: float = 0.1
    label_smoothing: float = 0.1
    adl_weight: float = 1.0
    adl_tau: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "weight_decay", "adl_weight", "adl_tau"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"expected {name} to be a finite number, got {getattr(self, name)}")
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of at least 1, got {getattr(self, name)}")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"expected steps of at least 1, or None, got {self.steps}")
        if not self.learning_rate > 0:
            raise ValueError(f"expected learning_rate above 0, got {self.learning_rate}")
        for name in ("weight_decay", "adl_weight", "adl_tau", "seed"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"expected {name} of at least 0, got {getattr(self, name)}")
        if self.seed > LARGEST_SEED:
            raise ValueError(f"expected seed of at most {LARGEST_SEED}, got {self.seed}")
        for name in ("warmup_fraction", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"expected {name} from 0 up to below 1, got {getattr(self, name)}")

    def steps_per_epoch(self, num_samples: int) -> int:
        """Full batches in `num_samples` images.

        Raises:
            ValueError: If there is not even one.
        """
        if num_samples < self.batch_size:
            raise ValueError(
                f"expected at least {self.batch_size} training images for one batch, got {num_samples}"
            )
        return num_samples // self.batch_size

    def total_steps(self, num_samples: int) -> int:
        """Optimizer steps in all."""
        return self.steps or self.epochs * self.steps_per_epoch(num_samples)


@dataclass(frozen=True)
class AugmentationConfig:
    """Light augmentation: flip, brightness, contrast.

    Args:
        flip: Probability of a left-right flip, in [0, 1].
        brightness: Images are multiplied by a factor drawn from [1 - brightness, 1 + brightness].
        contrast: The distance to their own mean is multiplied by a factor from [1 - contrast, 1 + contrast].

    Raises:
        ValueError: If a value is outside [0, 1].
    """

    flip: float = 0.5
    brightness: float = 0.2
    contrast: float = 0.2

    def __post_init__(self) -> None:
        for name in ("flip", "brightness", "contrast"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"expected {name} from 0 to 1, got {getattr(self, name)}")
