"""Small pictures in class folders, no two alike."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def _write(root: Path, *, per_class: int = 4, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    rng = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = rng.integers(0, 256, (24, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="session")
def write_class_folders():
    return _write
