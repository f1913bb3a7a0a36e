import importlib.util
import sys

import numpy as np
import pytest
import torch

from tapadl.corruptions import corrupt, frost_source, ice
from tapadl.corruptions.frost_texture import frost_texture


@pytest.fixture
def without_photographs(monkeypatch):
    caches = (ice._photograph_folder, ice.frost_picture, ice._scaled)
    for cached in caches:
        cached.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    yield
    for cached in caches:
        cached.cache_clear()


def test_photographs_are_used_where_they_are_installed():
    assert frost_source() == "photographs"


def test_without_the_package_the_texture_is_used_and_said(without_photographs, pictures):
    assert frost_source() == "procedural"
    images, indices = pictures(3, 40, 50), torch.arange(3)
    frosted = corrupt(images, "frost", 3, seed=0, indices=indices)
    assert torch.equal(frosted[1:], corrupt(images[1:], "frost", 3, seed=0, indices=indices[1:]))
    assert (frosted - images).abs().mean() > 0.05


def test_the_package_is_found_without_importing_it(monkeypatch):
    ice._photograph_folder.cache_clear()
    monkeypatch.delitem(sys.modules, "imagecorruptions", raising=False)
    monkeypatch.delitem(sys.modules, "imagecorruptions.corruptions", raising=False)
    assert frost_source() == "photographs"
    assert "imagecorruptions" not in sys.modules


@pytest.mark.parametrize(
    ("height", "width", "scale"), [(224, 224, 1.0), (32, 32, 0.2), (900, 20, 1.0), (1, 1, 0.01)]
)
def test_a_crop_has_its_size_and_the_corners_of_the_range_stay_inside(height, width, scale):
    for picture in (0.0, 0.5, 1 - 2**-24):
        for place in (0.0, 1 - 2**-24):
            crop = ice.crop(picture, place, place, height=height, width=width, scale=scale)
            assert crop.shape == (height, width, 3)


def test_every_picture_is_drawn_and_crops_differ():
    crops = [
        ice.crop(picture, top, 0.5, height=64, width=64, scale=1.0)
        for picture in (0.1, 0.3, 0.5, 0.7, 0.9)
        for top in (0.1, 0.9)
    ]
    assert len({crop.tobytes() for crop in crops}) >= 8  # the second and third photograph are the same


def test_the_texture_is_the_same_each_time_and_bright_pale_blue():
    texture = frost_texture(0)
    assert np.array_equal(texture, frost_texture(0))
    assert not np.array_equal(texture, frost_texture(1))
    red, _, blue = texture.mean(axis=(0, 1))
    assert red < blue
    # The five photographs: mean 0.51 to 0.81, standard deviation 0.09 to 0.17.
    for number in range(5):
        values = frost_texture(number) / 255
        assert 0.4 < values.mean() < 0.85
        assert 0.08 < values.std() < 0.22
