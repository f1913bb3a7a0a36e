"""The page on which the attention of the demo's models can be explored."""

from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image
from torch import nn

from tapadl.corruptions import CORRUPTIONS
from tapadl.demo.attention import first_of_classes
from tapadl.demo.bench import Bench
from tapadl.demo.folder import REPORT, DemoFolder
from tapadl.demo.report.findings import BASELINE, variant_label
from tapadl.demo.settings import EQUAL_TIME, Variant
from tapadl.diagnostics.explorer import Picture, Subject, all_conditions, write_explorer

_NUM_PICTURES = 3


def write_demo_explorer(bench: Bench, models: Mapping[Variant, nn.Module], folder: DemoFolder) -> None:
    """Write the page of the plain model and the last variant, or of the one there is.

    Shown are the first images of the first classes, under the first corruption of each group, at the weakest,
    middle and strongest of the severities: chosen by rule, not by eye.

    Args:
        bench: What was compared.
        models: Trained, by variant.
        folder: Where the page goes, beside the report.

    Raises:
        OSError: If it cannot be written.
    """
    settings, data = bench.settings, bench.data
    robust = [variant for variant in models if variant not in (BASELINE, EQUAL_TIME)]
    variants = [variant for variant in models if variant == BASELINE or variant in robust[-1:]]
    labels = bench.evaluated.labels
    write_explorer(
        [
            Subject(
                variant_label(variant),
                models[variant],
                _pixels,
                bench.normalise,
                data.class_names.__getitem__,
            )
            for variant in variants or list(models)
        ],
        [
            Picture(
                data.class_names[int(labels[place])],
                Image.fromarray(bench.evaluated.images[place, 0].numpy()),
                place,
            )
            for place in first_of_classes(labels, _NUM_PICTURES)
        ],
        all_conditions(_first_of_groups(settings.corruptions), _ends_and_middle(settings.severities)),
        folder.explorer,
        seed=settings.corruption_seed,
        back=("Report of the demo", REPORT),
    )


def _pixels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image))[None]


def _first_of_groups(names: tuple[str, ...]) -> list[str]:
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(CORRUPTIONS[name].group, name)
    return list(first.values())


def _ends_and_middle(severities: tuple[int, ...]) -> list[int]:
    found = sorted(severities)
    return [found[0], found[(len(found) - 1) // 2], found[-1]]
