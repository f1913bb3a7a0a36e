import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from tapadl.evaluation.preprocessing import Preprocessing

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Every value its own, so that a shift by one pixel shows."""
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def test_a_picture_that_fits_is_given_as_it_is():
    image = picture(32, 24)
    pixels = Preprocessing((24, 32), MEAN, STD).prepare(image)
    assert pixels.dtype == torch.uint8
    assert torch.equal(pixels, torch.tensor(np.array(image)).permute(2, 0, 1))


def test_the_crop_is_the_middle_of_the_resized_picture():
    image = picture(40, 20)
    pixels = Preprocessing((20, 20), MEAN, STD).prepare(image)
    assert torch.equal(pixels, torch.tensor(np.array(image))[:, 10:30].permute(2, 0, 1))


@pytest.mark.parametrize(("mode", "left"), [("center", 2), ("center_floor", 1)])
def test_an_odd_margin_is_cut_as_the_library_cuts_it(mode, left):
    image = picture(23, 20)  # a margin of 3: half of it is 1.5
    pixels = Preprocessing((20, 20), MEAN, STD, crop_mode=mode).prepare(image)
    assert torch.equal(pixels, torch.tensor(np.array(image))[:, left : left + 20].permute(2, 0, 1))


def test_squash_keeps_every_column_of_a_wide_picture():
    halves = Image.new("RGB", (80, 20), (0, 0, 0))
    halves.paste((255, 255, 255), (40, 0, 80, 20))
    pixels = Preprocessing((20, 20), MEAN, STD, crop_mode="squash", interpolation="box").prepare(halves)
    assert pixels[:, :, :10].max() == 0
    assert pixels[:, :, 10:].min() == 255


def test_border_fills_up_with_the_mean():
    pixels = Preprocessing((20, 20), MEAN, STD, crop_mode="border").prepare(Image.new("RGB", (40, 20)))
    assert pixels[:, 0, 0].tolist() == [124, 116, 104]  # 255 times the mean, rounded
    assert pixels[:, 5:15].max() == 0


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_of_eight_bits_becomes_rgb_or_gray(mode):
    image = picture(30, 30, "L" if mode == "LA" else "RGB").convert(mode)
    for mean, channels in ((MEAN, "RGB"), ((0.5,), "L")):
        pixels = Preprocessing((30, 30), mean, mean).prepare(image)
        assert torch.equal(
            pixels.permute(1, 2, 0).squeeze(-1), torch.tensor(np.array(image.convert(channels)))
        )


def test_a_palette_with_transparency_does_not_warn():
    image = picture(30, 30).convert("P")
    image.info["transparency"] = bytes([0] * 256)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = Preprocessing((30, 30), MEAN, STD).prepare(image)
    assert pixels.shape == (3, 30, 30)


@pytest.mark.parametrize("mode", ["I", "I;16", "F"])
def test_more_than_eight_bits_are_refused_and_not_clipped(mode):
    with pytest.raises(ValueError, match=rf"8 bits a channel, got one of mode {mode}"):
        Preprocessing((8, 8), MEAN, STD).prepare(Image.new(mode, (8, 8)))


def test_gray_models_get_one_channel():
    preprocessing = Preprocessing((28, 28), (0.286,), (0.353,))
    pixels = preprocessing.prepare(picture(28, 28, "L"))
    assert pixels.shape == (1, 28, 28)
    assert preprocessing.channels == 1
    assert preprocessing.normalise(pixels.float() / 255).shape == (1, 28, 28)


def test_stored_pictures_are_neither_resized_nor_cropped():
    image = picture(24, 24)
    stored = Preprocessing((24, 24), MEAN, STD, crop_pct=0.875).as_stored()
    assert stored.crop_pct == 1
    assert torch.equal(stored.prepare(image), torch.tensor(np.array(image)).permute(2, 0, 1))


@pytest.mark.parametrize("size", [(299, 299), (224, 225)])
def test_stored_pictures_of_another_size_are_refused_with_both_sizes(size):
    stored = Preprocessing((224, 224), MEAN, STD).as_stored()
    with pytest.raises(ValueError, match=rf"224 x 224 pixels .* got {size[1]} x {size[0]};"):
        stored.prepare(Image.new("RGB", size))


@pytest.mark.parametrize("shape", [(3, 4, 4), (2, 3, 4, 4), (2, 5, 3, 4, 4)])
def test_normalise_takes_any_number_of_leading_dimensions(shape):
    images = torch.rand(shape, dtype=torch.float64)
    got = Preprocessing((4, 4), MEAN, STD).normalise(images)
    for channel in range(3):
        expected = (images[..., channel, :, :] - MEAN[channel]) / STD[channel]
        torch.testing.assert_close(got[..., channel, :, :], expected, rtol=1e-14, atol=0)


def test_normalise_passes_the_gradient():
    images = torch.rand(1, 3, 4, 4, requires_grad=True)
    Preprocessing((4, 4), MEAN, STD).normalise(images).sum().backward()
    torch.testing.assert_close(images.grad[0, :, 0, 0], 1 / torch.tensor(STD))


@pytest.mark.parametrize("images", [torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.zeros(1, 1, 4, 4)])
def test_normalise_refuses_integers_and_other_channels(images):
    with pytest.raises(ValueError, match=r"floating point images \(\.\.\., 3, height, width\)"):
        Preprocessing((4, 4), MEAN, STD).normalise(images)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image_size": (224,)}, r"image_size \(height, width\)"),
        ({"mean": (0.5, 0.5)}, r"3 channels or for 1, got 2 and 3"),
        ({"std": (0.5, 0.5, 0.0)}, r"std above 0"),
        ({"crop_pct": 87.5}, r"crop_pct above 0 to 1, got 87\.5"),
        ({"interpolation": "cubic"}, r"interpolation out of nearest.*'cubic'"),
        ({"crop_mode": "middle"}, r"crop_mode out of center.*'middle'"),
        ({"resampler": "opencv"}, r"resampler out of pillow, torch, got 'opencv'"),
    ],
)
def test_values_that_are_none_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(**{"image_size": (224, 224), "mean": MEAN, "std": STD} | changed)


def test_a_picture_that_would_grow_beyond_the_limit_is_refused():
    preprocessing = Preprocessing((224, 224), (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(
        ValueError, match=r"another shape than 100000 x 1 pixels, which would be resized to 2\d{7} x"
    ):
        preprocessing.prepare(Image.new("RGB", (100_000, 1)))
