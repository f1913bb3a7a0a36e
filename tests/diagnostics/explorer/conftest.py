"""A model of every kind as the explorer takes it, and a picture to show it."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tapadl.diagnostics.explorer.subject import Picture, Subject


class FirstToken(nn.Module):
    """A model without a head, whose first token answers."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model(images).last_hidden_state[:, 0]


def halves(images):
    return (images - 0.5) / 0.5


@pytest.fixture
def make_subject():
    """A function that makes a subject of a model which takes images (C, H, W)."""

    def make(model: nn.Module, size: tuple[int, int, int], name: str = "model", **options) -> Subject:
        channels, height, width = size

        def prepare(image: Image.Image) -> torch.Tensor:
            resized = image.resize((width, height)).convert("L" if channels == 1 else "RGB")
            return torch.from_numpy(np.array(resized)).view(height, width, channels).permute(2, 0, 1)

        return Subject(name, model, prepare, halves, **options)

    return make


@pytest.fixture
def picture() -> Picture:
    """Uneven, so that tokens differ."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    return Picture("noise", Image.fromarray(pixels), 3)


@pytest.fixture
def seen(watched, make_subject):
    """Of every kind of model: a subject, and the model with what is known about it."""
    model = watched.model
    if watched.name.startswith("transformers"):
        model = FirstToken(model)
    return make_subject(model, tuple(watched.images.shape[1:]), watched.name), watched
