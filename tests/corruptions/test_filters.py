import numpy as np
import pytest
import torch

from tapadl.corruptions.filters import clamp_pad, mean_over_pixels, mirror_pad, mix_rows, transpose


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("reach", [0, 1, 6, 25])
def test_padding_equals_numpy_however_far_it_reaches(dim, size, reach):
    images = torch.rand(2, 3, size, size + 1)
    widths = [(reach, reach) if axis == dim else (0, 0) for axis in range(4)]
    assert (clamp_pad(images, dim, reach).numpy() == np.pad(images.numpy(), widths, mode="edge")).all()
    assert (mirror_pad(images, dim, reach).numpy() == np.pad(images.numpy(), widths, mode="reflect")).all()


def test_mixing_rows_is_a_matrix_product():
    images = torch.rand(2, 3, 5, 4, dtype=torch.float32)
    indices, weights = np.array([[0, 4], [2, 2], [1, 3]]), np.array([[0.25, 0.75], [1.0, 0.5], [0.0, 2.0]])
    matrix = torch.zeros(3, 5)
    matrix.index_put_(
        (torch.arange(3)[:, None], torch.from_numpy(indices)),
        torch.from_numpy(weights).float(),
        accumulate=True,
    )
    torch.testing.assert_close(mix_rows(images, indices, weights), matrix @ images)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 6), (5, 1), (31, 33), (224, 224)])
def test_mean_over_pixels_equals_the_mean_in_float64(height, width):
    images = torch.rand(2, 3, height, width)
    expected = images.double().mean(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(mean_over_pixels(images).double(), expected, atol=2e-7, rtol=0)


def test_transposing_stores_row_by_row():
    transposed = transpose(torch.rand(2, 3, 4, 5))
    assert transposed.shape == (2, 3, 5, 4)
    assert transposed.is_contiguous()
