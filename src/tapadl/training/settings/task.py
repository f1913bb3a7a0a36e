"""Which settings belong to which task."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal

from tapadl.training.settings.checks import to_plain
from tapadl.training.settings.segmentation import SegmentationSettings

Task = Literal["classification", "segmentation"]

# By section, what the other task has no use for.
_ONLY: Mapping[Task, Mapping[str, Sequence[str]]] = {
    "classification": {
        "model": ("img_size",),
        "data": ("num_classes", "extra_train"),
        "augmentation": (
            *("scale", "ratio", "color_jitter", "auto_augment", "augmix", "reprob", "remode"),
            *("mixup", "cutmix", "mixup_switch_prob", "label_smoothing", "patch_augmentation"),
            *("crop_pct", "interpolation"),
        ),
        "optimizer": ("layer_decay",),
    },
    "segmentation": {
        "segmentation": tuple(item.name for item in fields(SegmentationSettings)),
        "optimizer": ("head_lr",),
    },
}


def check_task(task: Task, sections: Mapping[str, Any]) -> None:
    """That nothing is set that the task would pass over.

    Args:
        task: Of the run.
        sections: Its settings, by section.

    Raises:
        ValueError: If the task is none, or a setting of the other one differs from its default.
    """
    if task not in _ONLY:
        raise ValueError(f"expected task to be one of {', '.join(_ONLY)}, got {task!r}")
    for other, only in _ONLY.items():
        for section, names in only.items() if other != task else ():
            values, defaults = (
                sections[section],
                {item.name: item.default for item in fields(sections[section])},
            )
            for name in names:
                if getattr(values, name) != defaults[name]:
                    raise ValueError(
                        f"expected {section}.{name} to be left at its default where task is {task}, got "
                        f"{to_plain(values)[name]!r}; it is a setting of {other}"
                    )
