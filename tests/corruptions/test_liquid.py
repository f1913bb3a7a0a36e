import cv2
import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt, gaussian_filter

from tapadl.corruptions.liquid import box_filter, canny, distance_to, emboss, equalize, wetness

EMBOSS = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])


def blobs(count: int, height: int, width: int, sigma: float, highest: int = 180) -> np.ndarray:
    """(count, height, width) 8-bit: 0 with islands of up to `highest`."""
    noise = np.random.default_rng(0).normal(size=(count, height, width))
    smooth = gaussian_filter(noise, (0, sigma, sigma))
    smooth /= smooth.max()
    return np.where(smooth < 0.3, 0, highest * smooth).astype(np.uint8)


LEVELS = [
    blobs(3, 50, 70, 0.5),
    blobs(3, 50, 70, 1.0),
    blobs(3, 33, 31, 3.0),
    blobs(2, 40, 40, 1.5, 40),
    np.random.default_rng(1).integers(0, 256, (3, 40, 41), dtype=np.uint8),
    np.random.default_rng(2).integers(0, 40, (3, 40, 41), dtype=np.uint8),
    np.zeros((1, 9, 8), dtype=np.uint8),
]
each_kind = pytest.mark.parametrize("levels", LEVELS, ids=range(len(LEVELS)))


@each_kind
def test_edges_are_those_of_opencv(levels):
    expected = np.stack([cv2.Canny(image, 50, 150) > 0 for image in levels])
    assert (canny(levels) == expected).all()


@each_kind
def test_distances_are_euclidean_up_to_20(levels):
    edges = canny(levels)
    for got, image in zip(distance_to(edges), edges, strict=True):
        expected = np.minimum(distance_transform_edt(~image), 20) if image.any() else 20
        np.testing.assert_allclose(got, np.broadcast_to(expected, got.shape), rtol=1e-6)


@each_kind
def test_filters_are_those_of_opencv(levels):
    for image, filtered, equalized, embossed in zip(
        levels, box_filter(levels.astype(np.float32)), equalize(levels), emboss(levels), strict=True
    ):
        np.testing.assert_allclose(filtered, cv2.blur(image.astype(np.float32), (3, 3)), rtol=1e-5)
        assert (equalized == cv2.equalizeHist(image)).all()
        assert (embossed == cv2.filter2D(image, cv2.CV_8U, EMBOSS)).all()


def test_the_wettest_pixel_is_1_and_dry_pixels_are_0():
    levels = LEVELS[1]
    wet = wetness(levels)
    assert (wet.max(axis=(1, 2)) == 1).all()
    assert (wet[levels == 0] == 0).all()


def test_no_liquid_gives_no_water_beside_a_wet_image():
    both = np.stack((np.zeros_like(LEVELS[1][0]), LEVELS[1][0]))
    wet = wetness(both)
    assert (wet[0] == 0).all()
    assert (wet[1] == wetness(LEVELS[1][:1])[0]).all()
