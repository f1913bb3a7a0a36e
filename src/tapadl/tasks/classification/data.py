"""The images of a training run: found, held against one another, and changed at random."""

from dataclasses import dataclass

from tapadl.data.open_training_data import check_same_classes, open_images, open_training_images
from tapadl.data.training_set import Images, TrainingSet
from tapadl.evaluation import plan
from tapadl.evaluation.preprocessing import Preprocessing
from tapadl.training.settings import AugmentationSettings, DataSettings, Settings
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
