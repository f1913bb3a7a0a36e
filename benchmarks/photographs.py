"""Photographs to measure with, where none can be downloaded."""

from pathlib import Path

import matplotlib.cbook
import numpy as np
from PIL import Image

CLASSES = 2


def write_photographs(folder: Path, count: int) -> None:
    """JPEG files of 500 x 375 pixels, cut at random from one photograph, in class folders."""
    photograph = Image.open(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))
    random = np.random.default_rng(0)
    for index in range(count):
        left, top = random.integers(0, photograph.width - 300), random.integers(0, photograph.height - 225)
        cut = photograph.crop((left, top, left + 300, top + 225)).resize((500, 375), Image.Resampling.BICUBIC)
        path = folder / str(index % CLASSES) / f"{index:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cut.save(path, quality=95)
