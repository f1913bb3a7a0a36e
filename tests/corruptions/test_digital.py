import cv2
import imagecorruptions.corruptions as published
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates

from tapadl.corruptions import constants_for, corrupt
from tapadl.corruptions.digital import pixelate
from tapadl.corruptions.random import Draws

SEVERITIES = pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
ONE = torch.tensor([0])


@SEVERITIES
def test_contrast_equals_published(severity, picture, to_tensor, to_array):
    image = picture(61, 50)
    expected = published.contrast(Image.fromarray(image), severity)
    got = corrupt(to_tensor(image), "contrast", severity, seed=0, indices=ONE, image_size=224)
    np.testing.assert_allclose(to_array(got), expected, atol=1e-3)


@SEVERITIES
@pytest.mark.parametrize(("height", "width"), [(224, 224), (64, 90)])
def test_jpeg_equals_published_to_the_bit(height, width, severity, picture, to_tensor, to_array):
    image = picture(height, width)
    expected = np.asarray(published.jpeg_compression(Image.fromarray(image), severity))
    got = corrupt(to_tensor(image), "jpeg_compression", severity, seed=0, indices=ONE, image_size=224)
    np.testing.assert_allclose(to_array(got), expected, atol=1e-4)


@SEVERITIES
@pytest.mark.parametrize(("height", "width"), [(224, 224), (33, 90), (9, 5)])
def test_pixelate_equals_published_to_the_bit(height, width, severity, picture, to_tensor, to_array):
    image = picture(height, width)
    expected = np.asarray(published.pixelate(Image.fromarray(image), severity))
    got = corrupt(to_tensor(image), "pixelate", severity, seed=0, indices=ONE, image_size=224)
    np.testing.assert_allclose(to_array(got), expected, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_pixelate_to_half_the_side_gives_the_rounded_means_of_two_by_two_pixels(channels):
    levels = torch.randint(256, (2, channels, 10, 14), generator=torch.Generator().manual_seed(0))
    # rounded after the columns and once more after the rows, as pictures of 8 bits are shrunk
    means = (levels.unflatten(3, (7, 2)).double().mean(4) + 0.5).floor()
    means = (means.unflatten(2, (5, 2)).mean(3) + 0.5).floor()
    got = pixelate(levels / 255, scale=0.5)
    expected = means.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(got.double(), expected)


@SEVERITIES
def test_saturate_equals_published(severity, picture, to_tensor, to_array):
    image = picture(60, 50)
    image[:5], image[5:9], image[9:12, :, 1:], image[12:16] = 0, 255, 0, image[12:16, :, :1]
    expected = published.saturate(Image.fromarray(image), severity)
    got = corrupt(to_tensor(image), "saturate", severity, seed=0, indices=ONE, image_size=224)
    np.testing.assert_allclose(to_array(got), expected, atol=1e-3)


def test_saturation_of_a_gray_image_stays(pictures):
    images = pictures(2, 9, 8, 1)
    assert torch.equal(corrupt(images, "saturate", 5, seed=0, indices=torch.arange(2)), images)


def plain_elastic(image, draws, alpha, sigma, jitter):
    """The definition, a second time: image (H, W, C) float64 in 0..1, draws uniform in 0..1 in order."""
    height, width, _ = image.shape
    centre, third = np.float32([width // 2, height // 2]), min(height, width) // 3
    corners = centre + np.float32([[third, third], [third, -third], [-third, -third]])
    moved = corners + ((2 * draws.uniform(3, 2)[0] - 1) * jitter).astype(np.float32)
    forward = np.vstack((cv2.getAffineTransform(corners, moved), (0, 0, 1)))
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    right, down, _ = np.tensordot(np.linalg.inv(forward), np.stack((columns, rows, np.ones_like(rows))), 1)
    warped = [
        map_coordinates(channel, (down, right), order=1, mode="mirror") for channel in image.T.swapaxes(1, 2)
    ]
    noise = 2.0 * draws.uniform(2, height, width)[0] - 1
    if alpha:
        columns += alpha * gaussian_filter(noise[0], sigma, mode="reflect", truncate=3)
        rows += alpha * gaussian_filter(noise[1], sigma, mode="reflect", truncate=3)
    return [map_coordinates(channel, (rows, columns), order=1, mode="reflect") for channel in warped]


@SEVERITIES
@pytest.mark.parametrize("size", [224, 64, 32])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (45, 71)])
def test_elastic_transform_equals_its_definition(size, height, width, severity, pictures):
    images = pictures(1, height, width)
    constants = constants_for("elastic_transform", severity, size).values
    draws = Draws(2, [5], "elastic_transform", severity)
    expected = plain_elastic(images[0].permute(1, 2, 0).double().numpy(), draws, **constants)
    got = corrupt(images, "elastic_transform", severity, seed=2, indices=torch.tensor([5]), image_size=size)
    # Reading between pixels in float32 is off by up to a few 1e-5 pixels.
    np.testing.assert_allclose(got[0].numpy(), np.stack(expected), atol=2e-4)


@SEVERITIES
@pytest.mark.parametrize("corruption", ["contrast", "elastic_transform", "pixelate", "jpeg_compression"])
def test_a_constant_image_stays_itself(corruption, severity):
    images = (torch.tensor([51.0, 128.0, 200.0]) / 255)[None, :, None, None].expand(1, 3, 24, 17)
    got = corrupt(images, corruption, severity, seed=0, indices=ONE)
    # The coarsest step of these JPEG qualities at frequency zero is 20 levels of brightness over 8 pixels.
    tolerance = 6 / 255 if corruption == "jpeg_compression" else 1e-6
    torch.testing.assert_close(got, images, atol=tolerance, rtol=0)


@SEVERITIES
def test_contrast_keeps_the_mean_and_scales_the_deviation(severity, pictures):
    images = pictures(2, 30, 31)
    factor = constants_for("contrast", severity, 30).values["factor"]
    got = corrupt(images, "contrast", severity, seed=0, indices=torch.arange(2))
    torch.testing.assert_close(got.mean((2, 3)), images.mean((2, 3)), atol=1e-6, rtol=0)
    torch.testing.assert_close(got.std((2, 3)), images.std((2, 3)) * factor, atol=1e-6, rtol=0)


def test_jpeg_gives_multiples_of_a_255th(pictures):
    got = corrupt(pictures(2, 33, 17, 1), "jpeg_compression", 3, seed=0, indices=torch.arange(2)) * 255
    torch.testing.assert_close(got, got.round(), atol=1e-4, rtol=0)
