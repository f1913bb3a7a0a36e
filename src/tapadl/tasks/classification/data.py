"""The images of a training run: found, held against one another, and read batch by batch."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

from tapadl.data.open_training_data import check_same_classes, open_images, open_training_images
from tapadl.data.training_set import Images, TrainingSet
from tapadl.evaluation import plan
from tapadl.evaluation.preprocessing import Preprocessing
from tapadl.training.objective import Batch
from tapadl.training.sampling import EpochBatches
from tapadl.training.settings import AugmentationSettings, DataSettings, Settings
from tapadl.training.step_plan import StepPlan
from tapadl.training.stopping import leave_stopping_to_trainer
from tapadl.training.transforms import training_transform


@dataclass(frozen=True)
class ClassificationData:
    """Where the images are.

    Args:
        train: To train on.
        val: To evaluate on, of the same classes; None without.
        num_classes: Width of the logits, at least the number of classes.
    """

    train: Images
    val: plan.Images | None
    num_classes: int


def open_data(settings: DataSettings) -> ClassificationData:
    """The images that the settings name.

    Raises:
        OSError: If a folder or file is missing or may not be read.
        ValueError: If a class is empty, classes differ, or there are more of them than `num_classes`.
    """
    train = open_training_images(settings.train, settings.extra_train)
    val = None
    if settings.val is not None:
        val = open_images(settings.val, split="validation")
        check_same_classes(train, val, names=(settings.train, settings.val))
    classes = len(train.class_names)
    num_classes = classes if settings.num_classes is None else settings.num_classes
    if num_classes < classes:
        raise ValueError(
            f"expected data.num_classes of at least {classes}, as there are classes in {settings.train}, "
            f"got {num_classes}"
        )
    return ClassificationData(train, val, num_classes)


def make_training_set(images: Images, settings: Settings, preprocessing: Preprocessing) -> TrainingSet:
    """Images behind the random transform that the settings describe.

    Raises:
        ValueError: If timm does not know a word of the augmentation.
    """
    augmentation: AugmentationSettings = settings.augmentation
    transform = training_transform(
        image_size=preprocessing.image_size,
        mean=preprocessing.mean,
        std=preprocessing.std,
        scale=augmentation.scale,
        ratio=augmentation.ratio,
        hflip=augmentation.hflip,
        color_jitter=augmentation.color_jitter,
        auto_augment=augmentation.auto_augment,
        augmix=augmentation.augmix,
        reprob=augmentation.reprob,
        remode=augmentation.remode,
        interpolation=augmentation.interpolation or preprocessing.interpolation,
    )
    return TrainingSet(images, transform, seed=settings.training.seed, on_error=settings.data.on_error)


def batches(
    training_set: TrainingSet, settings: Settings, step_plan: StepPlan, device: torch.device, start_step: int
) -> Iterator[Sequence[Batch]]:
    """For every step from `start_step` on, the micro-batches of this process.

    What they hold follows from (seed, epoch, index), whatever the number of workers.
    """
    training = settings.training
    order = EpochBatches(
        len(training_set),
        training.batch_size,
        training.seed,
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        accumulation=training.accumulation,
    )
    loader = iter(
        DataLoader(
            training_set,
            batch_sampler=order.micro_batches(start_step, step_plan.total_steps),
            num_workers=workers_of(settings.data),
            worker_init_fn=leave_stopping_to_trainer,
            pin_memory=device.type == "cuda",
        )
    )
    for _ in range(start_step, step_plan.total_steps):
        yield [next(loader) for _ in range(training.accumulation)]


def workers_of(settings: DataSettings) -> int:
    """Processes that read for this one: as many as asked for, or its share of the spare cores."""
    if settings.workers is not None:
        return settings.workers
    trainers_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    # a batch system grants fewer cores than the machine has
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(0, cores // trainers_here - 1)
