"""What is explored: models, each with its own way of seeing a picture, and pictures."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image
from torch import nn


@dataclass(frozen=True, eq=False)
class Subject:
    """A classifier, and how it sees a picture.

    Args:
        name: What the page calls it.
        model: (B, C, H, W) normalised images -> (B, classes) logits; one that the loss can listen to.
        prepare: Picture -> (C, H, W), uint8: resized and cropped. Corruptions act on what it gives.
        normalise: (B, C, H, W) in 0..1 -> what the model takes.
        class_name: Number of an output -> its name.
    """

    name: str
    model: nn.Module
    prepare: Callable[[Image.Image], torch.Tensor]
    normalise: Callable[[torch.Tensor], torch.Tensor]
    class_name: Callable[[int], str] = "class {}".format


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture to look at.

    Args:
        name: What the page calls it.
        image: As it was taken.
        index: Its position in its data set, on which the random draws of a corruption depend.
    """

    name: str
    image: Image.Image
    index: int


@dataclass(frozen=True)
class Condition:
    """What is done to a picture.

    Args:
        corruption: A name in `tapadl.corruptions.CORRUPTIONS`; "" for nothing.
        severity: 1 to 5; 0 for nothing.
    """

    corruption: str
    severity: int


CLEAN = Condition("", 0)
