import pytest
import torch

from tapadl.training.augmentation import augment
from tapadl.training.config import AugmentationConfig


def test_what_is_done_to_an_image_does_not_depend_on_its_batch():
    images, config = torch.rand(6, 1, 5, 4), AugmentationConfig()
    together = augment(images, torch.arange(6), config, seed=3, epoch=1)
    alone = augment(images[4:5], torch.tensor([4]), config, seed=3, epoch=1)
    torch.testing.assert_close(alone, together[4:5], rtol=0, atol=1e-6)


def test_flip_of_probability_one_flips_every_image():
    images = torch.rand(3, 3, 4, 6)
    flipped = augment(images, torch.arange(3), AugmentationConfig(1, 0, 0), seed=0, epoch=0)
    torch.testing.assert_close(flipped, images.flip(-1))


def test_about_half_of_the_images_are_flipped():
    images = torch.linspace(0, 1, 4).expand(1000, 1, 4, 4)
    flipped = augment(images, torch.arange(1000), AugmentationConfig(0.5, 0, 0), seed=0, epoch=0)
    assert 400 < int((flipped[:, 0, 0, 0] > 0.5).sum()) < 600


def test_brightness_scales_within_its_range():
    images = torch.full((500, 1, 2, 2), 0.5)
    factors = (
        augment(images, torch.arange(500), AugmentationConfig(0, 0.2, 0), seed=0, epoch=0)[:, 0, 0, 0] / 0.5
    )
    assert 0.8 <= factors.min() < 0.82
    assert 1.18 < factors.max() <= 1.2


def test_contrast_keeps_the_mean():
    images = 0.4 + 0.2 * torch.rand(50, 1, 4, 4)
    changed = augment(images, torch.arange(50), AugmentationConfig(0, 0, 0.5), seed=0, epoch=0)
    torch.testing.assert_close(changed.mean(dim=(1, 2, 3)), images.mean(dim=(1, 2, 3)))
    assert not torch.allclose(changed, images)


def test_values_stay_in_range():
    images = torch.rand(50, 1, 4, 4)
    changed = augment(images, torch.arange(50), AugmentationConfig(0.5, 1, 1), seed=0, epoch=0)
    assert changed.min() >= 0
    assert changed.max() <= 1


@pytest.mark.parametrize("name", ["flip", "brightness", "contrast"])
def test_strength_outside_its_range_is_an_error(name):
    with pytest.raises(ValueError, match=f"expected {name} from 0 to 1, got 1.5"):
        AugmentationConfig(**{name: 1.5})
