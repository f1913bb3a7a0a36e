"""Small trees of images and label files in the published layouts."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def write():
    """Write an image of colours, or of one number a pixel if it has two axes."""

    def write_image(path, pixels):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(path)

    return write_image


@pytest.fixture
def cityscapes_root(tmp_path, write):
    """Two cities in train, one in val, one in test."""
    for split, city, number in (
        ("train", "ulm", 0),
        ("train", "bonn", 1),
        ("val", "lindau", 2),
        ("test", "b", 3),
    ):
        name = f"{split}/{city}/{city}_00000{number}_000019"
        write(tmp_path / f"leftImg8bit/{name}_leftImg8bit.png", np.full((4, 6, 3), number))
        write(tmp_path / f"gtFine/{name}_gtFine_labelIds.png", np.full((4, 6), 7 + number))
        write(tmp_path / f"gtFine/{name}_gtFine_color.png", np.zeros((4, 6, 3)))
    return tmp_path
