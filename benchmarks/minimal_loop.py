"""A training loop of timm's parts and nothing else: what ours is measured against."""

import itertools
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import ImageDataset, Mixup, create_loader
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3, NativeScaler, dispatch_clip_grad
from torch import nn
from torch.utils.data import Dataset

from tapadl.data.embedded import load_embedded
from tapadl.evaluation.preprocessing import Preprocessing
from tapadl.training.settings import Settings

CPU = torch.device("cpu")
DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Embedded(Dataset[tuple[torch.Tensor, int]]):
    """The built-in training images, for timm's loader, which gives it its transform.

    Args:
        order: Which, one after the other; None for all.
    """

    transform: Callable[[Image.Image], torch.Tensor]

    def __init__(self, order: Sequence[int] | None) -> None:
        train = load_embedded().train
        self.pixels, self.labels = train.images, train.labels.tolist()
        self.order = range(len(self.labels)) if order is None else order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        index = self.order[place]
        return self.transform(Image.fromarray(self.pixels[index, 0].numpy())), self.labels[index]


def make_loader(
    settings: Settings, preprocessing: Preprocessing, order: Sequence[int] | None
) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
    """timm's, with the augmentation of the settings; with an `order` in that order and without any."""
    augmentation = settings.augmentation
    return create_loader(
        Embedded(order) if settings.data.train == "embedded" else ImageDataset(settings.data.train),
        input_size=(preprocessing.channels, *preprocessing.image_size),
        batch_size=settings.training.batch_size,
        is_training=order is None,
        crop_pct=1.0,
        scale=augmentation.scale,
        ratio=augmentation.ratio,
        hflip=augmentation.hflip,
        color_jitter=augmentation.color_jitter,
        auto_augment=augmentation.auto_augment,
        re_prob=augmentation.reprob,
        re_mode=augmentation.remode,
        interpolation=augmentation.interpolation or preprocessing.interpolation,
        mean=preprocessing.mean,
        std=preprocessing.std,
        num_workers=settings.data.workers,
        device=CPU,
        # without it the process that reads normalises too; with it the rounding is that of ours
        use_prefetcher=order is not None,
    )


def minimal_loop(
    model: nn.Module,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    settings: Settings,
    num_classes: int,
    total_steps: int,
    on_step: Callable[[int], None],
) -> dict[str, torch.Tensor]:
    """Train in place.

    Args:
        model: What is trained.
        batches: Images, which mixup changes, and labels.
        settings: Of the run.
        num_classes: Width of the logits.
        total_steps: Steps in all.
        on_step: Called with the steps done, 0 at first.

    Returns:
        The averaged weights.
    """
    augmentation, training = settings.augmentation, settings.training
    optimization, clip_grad = settings.optimizer, settings.optimizer.clip_grad
    dtype = DTYPES[training.precision]
    model.train()
    optimizer = create_optimizer_v2(
        model, opt=optimization.name, lr=optimization.lr, weight_decay=optimization.weight_decay
    )
    schedule = CosineLRScheduler(
        optimizer, t_initial=total_steps, lr_min=settings.schedule.min_lr, t_in_epochs=False
    )
    average = ModelEmaV3(model, decay=training.ema_decay)
    scaler = NativeScaler("cpu") if training.precision == "float16" else None
    mixup = Mixup(
        augmentation.mixup,
        augmentation.cutmix,
        switch_prob=augmentation.mixup_switch_prob,
        label_smoothing=augmentation.label_smoothing,
        num_classes=num_classes,
    )
    mixup.mixup_enabled = augmentation.mixes
    on_step(0)
    for step, (images, labels) in enumerate(itertools.islice(batches, total_steps), 1):
        images, targets = mixup(images, labels)
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            loss = F.cross_entropy(model(images), targets)
        optimizer.zero_grad()
        if scaler is None:
            loss.backward()
            dispatch_clip_grad(model.parameters(), clip_grad)
            optimizer.step()
        else:
            scaler(loss, optimizer, clip_grad=clip_grad, parameters=model.parameters())
        average.update(model)
        schedule.step_update(step)
        on_step(step)
    return average.module.state_dict()
