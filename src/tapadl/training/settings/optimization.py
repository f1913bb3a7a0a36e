"""How the weights move, and how long."""

from dataclasses import dataclass
from typing import Literal

from tapadl.training.config import LARGEST_SEED
from tapadl.training.settings.checks import (
    AT_LEAST_0,
    AT_LEAST_1,
    INSIDE_FRACTION,
    POSITIVE,
    Interval,
    check_choices,
    check_named,
    check_numbers,
    refuse,
)

Precision = Literal["float32", "bfloat16", "float16"]
Parallel = Literal["ddp", "fsdp"]


@dataclass(frozen=True)
class OptimizerSettings:
    """How a step moves the weights.

    Norms, biases and what the model names in `no_weight_decay()` have no weight decay.

    Args:
        name: Any optimizer of timm.
        lr: Learning rate after the warm-up; for the whole batch.
        weight_decay: Of matrices and kernels alone.
        betas: Of the moments, null: the optimizer's.
        eps: In the divisor, null: the optimizer's.
        layer_decay: Factor on lr a layer down, null: none; in (0, 1].
        head_lr: Factor on lr in a segmenter's head; warm-up and decay included.
        clip_grad: Largest norm of the gradient, null: any; over all parameters.

    Raises:
        ValueError: If a value is out of range.
    """

    name: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.05
    betas: tuple[float, float] | None = None
    eps: float | None = None
    layer_decay: float | None = None
    head_lr: float = 1.0
    clip_grad: float | None = None

    def __post_init__(self) -> None:
        check_named(self, "name")
        check_numbers(self, POSITIVE, "lr", "eps", "head_lr", "clip_grad")
        check_numbers(self, AT_LEAST_0, "weight_decay")
        check_numbers(self, Interval(0, 1, without_high=True), "betas")
        check_numbers(self, Interval(0, 1, without_low=True), "layer_decay")


@dataclass(frozen=True)
class ScheduleSettings:
    """How the learning rate goes, step by step.

    Args:
        name: cosine, poly (linear) or constant; after the warm-up.
        warmup_epochs: Of linear rise, counted in training.epochs; 0 for none.
        warmup_lr: Where the rise begins.
        min_lr: Where the decay ends.

    Raises:
        ValueError: If a value is out of range.
    """

    name: Literal["cosine", "poly", "constant"] = "cosine"
    warmup_epochs: float = 5.0
    warmup_lr: float = 1e-6
    min_lr: float = 1e-6

    def __post_init__(self) -> None:
        check_choices(self)
        check_numbers(self, AT_LEAST_0, "warmup_epochs", "warmup_lr", "min_lr")


@dataclass(frozen=True)
class TrainingSettings:
    """How long, on what, with which arithmetic.

    Args:
        epochs: Passes over the training images.
        max_steps: At most so many steps, null: all; warm-up and decay are shortened with the run.
        batch_size: Images a step, all processes together; also all parts of an accumulation.
        accumulation: Parts of a step, one after the other; each has a forward and backward of its own.
        precision: float32, bfloat16 or float16; the last with a scaler of the loss.
        compile: Run the model through torch.compile.
        channels_last: Keep images channels-last in memory.
        grad_checkpointing: Compute blocks twice, to save memory.
        ema_decay: Of averaged weights, null: no average; such as 0.9999, the averaged ones are the result.
        seed: Of weights, order and augmentation.
        parallel: ddp, or fsdp for very large models; --parallel for short, where there are several processes.
        device: cpu, cuda, ..., null: cuda, if there is.

    Raises:
        ValueError: If a value is out of range.
    """

    epochs: int = 100
    max_steps: int | None = None
    batch_size: int = 256
    accumulation: int = 1
    precision: Precision = "float32"
    compile: bool = False
    channels_last: bool = False
    grad_checkpointing: bool = False
    ema_decay: float | None = None
    seed: int = 0
    parallel: Parallel = "ddp"
    device: str | None = None

    def __post_init__(self) -> None:
        check_choices(self)
        check_named(self, "device")
        check_numbers(self, AT_LEAST_1, "epochs", "max_steps", "batch_size", "accumulation")
        check_numbers(self, INSIDE_FRACTION, "ema_decay")
        check_numbers(self, Interval(0, LARGEST_SEED), "seed")
        if self.batch_size % self.accumulation:
            raise refuse(
                self, "batch_size", f"to be a multiple of training.accumulation, {self.accumulation}"
            )
