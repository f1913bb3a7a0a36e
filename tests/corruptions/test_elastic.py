import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, map_coordinates

from tapadl.corruptions.elastic import affine_sources, sample, smooth


@pytest.mark.parametrize("sigma", [0.3, 1.9, 6.4, 60.0, 170.8])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (17, 50), (1, 5)])
def test_smoothing_is_a_gaussian_filter(height, width, sigma):
    noise = np.random.default_rng(0).uniform(-1, 1, (2, 2, height, width)).astype(np.float32)
    expected = gaussian_filter(noise.astype(np.float64), (0, 0, sigma, sigma), mode="reflect", truncate=3)
    np.testing.assert_allclose(smooth(noise, sigma), expected, atol=1e-6)


@pytest.mark.parametrize(("mirror_at", "mode"), [("centre", "mirror"), ("edge", "reflect")])
def test_reading_between_and_beyond_pixels(mirror_at, mode):
    generator = np.random.default_rng(0)
    images = generator.uniform(size=(2, 1, 9, 13)).astype(np.float32)
    columns, rows = generator.uniform(-40, 50, (2, 2, 9, 13)).astype(np.float32)
    got = sample(torch.from_numpy(images), columns, rows, mirror_at=mirror_at)
    for image, down, right, read in zip(images, rows, columns, got, strict=True):
        expected = map_coordinates(image[0].astype(np.float64), (down, right), order=1, mode=mode)
        np.testing.assert_allclose(read[0].numpy(), expected, atol=1e-4)


def test_corners_that_stay_leave_every_pixel_where_it_is():
    columns, rows = affine_sources(np.zeros((1, 3, 2)), 7, 12)
    np.testing.assert_allclose(rows[0], np.mgrid[:7, :12][0], atol=1e-6)
    np.testing.assert_allclose(columns[0], np.mgrid[:7, :12][1], atol=1e-6)


def test_moving_all_corners_shifts_the_image_with_them():
    moved = np.broadcast_to([2.0, -3.0], (1, 3, 2))
    columns, rows = affine_sources(moved, 20, 20)
    np.testing.assert_allclose(columns[0, 10, 10], 8, atol=1e-5)
    np.testing.assert_allclose(rows[0, 10, 10], 13, atol=1e-5)
