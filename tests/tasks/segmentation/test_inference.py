import math

import pytest
import torch
import torch.nn.functional as F

from tapadl.tasks.segmentation import sliding_logits, whole_logits
from tapadl.tasks.segmentation.inference import window_starts


def places(length, crop, stride):
    """Beginnings of windows by their number, each moved back where it would pass the edge."""
    number = max(math.ceil((length - crop) / stride), 0) + 1
    return [max(min(index * stride, length - crop), 0) for index in range(number)]


def aware_of_its_window(images):
    """Two logits that depend on where in the window a pixel is."""
    rows, cols = images.shape[2:]
    place = torch.arange(rows * cols, dtype=images.dtype).view(1, 1, rows, cols)
    return torch.cat([images[:, :1] * place, images[:, 1:2] + place.sqrt()], dim=1)


def half_as_large(images):
    return F.avg_pool2d(images, kernel_size=2)


def by_a_plain_loop(model, images, crop, stride):
    batch, _, height, width = images.shape
    found = [[[] for _ in range(width)] for _ in range(height)]
    for top in places(height, crop[0], stride[0]):
        for left in places(width, crop[1], stride[1]):
            window = images[:, :, top : top + crop[0], left : left + crop[1]]
            logits = F.interpolate(model(window), size=window.shape[2:], mode="bilinear")
            for row in range(window.shape[2]):
                for col in range(window.shape[3]):
                    found[top + row][left + col].append(logits[:, :, row, col])
    means = [torch.stack(votes).mean(dim=0) for line in found for votes in line]
    return torch.stack(means, dim=2).view(batch, -1, height, width)


@pytest.mark.parametrize("model", [aware_of_its_window, half_as_large])
@pytest.mark.parametrize(
    ("size", "crop", "stride"),
    [
        ((12, 16), (8, 8), (6, 6)),  # the last window of rows moves back
        ((16, 24), (8, 8), (8, 8)),  # no overlap
        ((13, 21), (8, 6), (3, 5)),
        ((6, 20), (8, 8), (6, 6)),  # shorter than the window along one axis
        ((5, 7), (8, 8), (6, 6)),  # along both
        ((8, 8), (8, 8), (1, 1)),
        ((9, 8), (8, 8), (8, 8)),
    ],
)
def test_logits_are_the_mean_over_all_windows_that_see_a_pixel(model, size, crop, stride):
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    expected = by_a_plain_loop(model, images, crop, stride)
    torch.testing.assert_close(sliding_logits(model, images, crop, stride), expected)


def test_windows_cover_every_pixel_at_any_size():
    for length in range(1, 30):
        for crop in range(1, 12):
            for stride in range(1, crop + 1):
                starts = window_starts(length, crop, stride)
                assert starts == places(length, crop, stride)
                seen = {start + step for start in starts for step in range(min(crop, length))}
                assert seen == set(range(length))


def test_the_papers_windows_on_an_image_of_cityscapes():
    assert window_starts(1024, 1024, 768) == [0]
    assert window_starts(2048, 1024, 768) == [0, 768, 1024]


def test_whole_images_and_windows_agree_where_a_pixel_is_judged_alone():
    images = torch.randn(1, 3, 11, 17, dtype=torch.float64)
    torch.testing.assert_close(
        sliding_logits(torch.tanh, images, (4, 5), (3, 2)), whole_logits(torch.tanh, images)
    )


def test_logits_of_a_whole_image_are_enlarged_to_it():
    images = torch.randn(1, 3, 10, 14)
    expected = F.interpolate(half_as_large(images), size=(10, 14), mode="bilinear", align_corners=False)
    torch.testing.assert_close(whole_logits(half_as_large, images), expected)


def test_half_precision_logits_are_averaged_in_float32():
    images = torch.randn(1, 3, 9, 9)
    logits = sliding_logits(lambda window: window.bfloat16(), images, (6, 6), (2, 2))
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, images.bfloat16().float())


@pytest.mark.parametrize("stride", [(0, 4), (4, 9), (-1, 4)])
def test_a_stride_that_leaves_pixels_out_is_refused(stride):
    with pytest.raises(ValueError, match=r"expected a stride from 1 to the window \(8, 8\), got"):
        sliding_logits(torch.tanh, torch.zeros(1, 3, 16, 16), (8, 8), stride)
