import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from tapadl.training.mixing import Mixing, patch_augmentation
from tapadl.training.randomness import reseed

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])


def images_in_range(*shape, dtype=torch.float64):
    """Normalised images whose pixels are all different."""
    pixels = torch.rand(*shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
    return (pixels - torch.tensor(MEAN, dtype=dtype)[:, None, None]) / torch.tensor(STD, dtype=dtype)[
        :, None, None
    ]


def one_hot(labels):
    return torch.eye(5)[labels]


def test_without_mixing_targets_are_smoothed_labels():
    images = images_in_range(3, 3, 8, 8)
    logits = torch.randn(3, 5)
    same, targets = Mixing(5, label_smoothing=0.1)(images, LABELS[:3])
    assert torch.equal(same, images)
    expected = cross_entropy(logits, LABELS[:3], label_smoothing=0.1)
    torch.testing.assert_close(cross_entropy(logits, targets), expected)


def test_mixup_adds_the_image_from_the_other_end_by_the_drawn_share():
    images = images_in_range(6, 3, 8, 8)
    reseed(0, 3, 0)
    mixed, targets = Mixing(5, mixup=0.8)(images, LABELS)
    reseed(0, 3, 0)
    np.random.rand()  # noqa: NPY002 - whether to mix at all
    share = np.random.beta(0.8, 0.8)  # noqa: NPY002
    for index in range(6):
        torch.testing.assert_close(mixed[index], share * images[index] + (1 - share) * images[5 - index])
        expected = share * one_hot(LABELS[index]) + (1 - share) * one_hot(LABELS[5 - index])
        torch.testing.assert_close(targets[index], expected)


@pytest.mark.parametrize("step", range(5))
def test_cutmix_shares_the_target_by_the_area_of_the_box(step):
    images = images_in_range(6, 3, 16, 12)
    reseed(0, step, 0)
    mixed, targets = Mixing(5, cutmix=1.0)(images, LABELS)
    foreign = mixed != images
    assert torch.equal(mixed[foreign], images.flip(0)[foreign])
    rows, columns = foreign[0, 0].any(1), foreign[0, 0].any(0)
    assert torch.equal(foreign, (rows[:, None] & columns).expand(6, 3, -1, -1))
    share = 1 - foreign[0, 0].double().mean()
    torch.testing.assert_close(
        targets, (share * one_hot(LABELS) + (1 - share) * one_hot(LABELS.flip(0))).float()
    )


def test_the_two_switch_by_the_given_probability():
    images = images_in_range(2, 3, 16, 16)

    def is_cutmix(step, switch_prob):
        reseed(0, step, 0)
        mixed, _ = Mixing(5, mixup=0.8, cutmix=1.0, switch_prob=switch_prob)(images, LABELS[:2])
        return bool(((mixed == images) | (mixed == images.flip(0))).all())

    assert not any(is_cutmix(step, 0.0) for step in range(20))
    assert all(is_cutmix(step, 1.0) for step in range(20))
    assert 15 < sum(is_cutmix(step, 0.25) for step in range(100)) < 36


def test_mixing_follows_from_the_step_and_leaves_its_arguments():
    images = images_in_range(6, 3, 8, 8)
    before = images.clone()
    mixing = Mixing(5, mixup=0.8, cutmix=1.0, label_smoothing=0.1)
    results = []
    for step in (4, 5, 4):
        reseed(9, step, 1)
        results.append(mixing(images, LABELS))
    assert torch.equal(images, before)
    assert all(torch.equal(one, two) for one, two in zip(results[0], results[2], strict=True))
    assert not torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1].sum(1), torch.ones(6))


def test_an_odd_micro_batch_cannot_be_paired():
    with pytest.raises(ValueError, match=r"even micro-batch .* got 5 images"):
        Mixing(5, mixup=0.8)(images_in_range(5, 3, 8, 8), LABELS[:5])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"mixup": -1}, "mixup and cutmix from 0, got 5, -1"),
        ({"num_classes": 0}, "num_classes from 1"),
        ({"switch_prob": 1.5}, "switch_prob from 0 to 1, got 1.5"),
        ({"label_smoothing": -0.1}, r"label_smoothing from 0 to 1, got -0\.1"),
    ],
)
def test_mixing_refuses_what_is_out_of_range(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        Mixing(**{"num_classes": 5, **arguments})


OFF = {"crop_prob": 0.0, "noise_prob": 0.0, "flip_prob": 0.0}


def augment(images, *, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    return patch_augmentation(images, mean=MEAN, std=STD, generator=generator, **options)


def draws(count, images, size, *, seed=0):
    """What `patch_augmentation` draws: which operations, where crops are, the noise."""
    generator = torch.Generator().manual_seed(seed)
    chosen, crops = torch.rand(3, count, generator=generator), torch.rand(3, count, generator=generator)
    noise = torch.randn(count, 3, size, size, generator=generator, dtype=images.dtype)
    return chosen, crops, noise


def patch_by_patch(images, size, operation):
    """The plain loop: `operation(number, patch)` of every patch, row by row of every image."""
    result = images.clone()
    number = 0
    for image in result:
        for top in range(0, image.shape[1], size):
            for left in range(0, image.shape[2], size):
                window = image[:, top : top + size, left : left + size]
                window.copy_(operation(number, window.clone()))
                number += 1
    return result, number


def clamped(images):
    mean, std = torch.tensor(MEAN, dtype=images.dtype), torch.tensor(STD, dtype=images.dtype)
    low, high = -mean / std, (1 - mean) / std
    return images.clamp(low[:, None, None], high[:, None, None])


CASES = [(images_in_range(2, 3, 32, 48), 16, {"patch_size": 16}), (images_in_range(3, 3, 32, 32), 4, {})]


@pytest.mark.parametrize("images", [images_in_range(2, 3, 64, 32), images_in_range(1, 3, 28, 28)])
def test_with_probability_0_images_stay_as_they_are(images):
    assert torch.equal(augment(images, **OFF), images)


@pytest.mark.parametrize(("images", "size", "options"), CASES)
def test_flips_are_those_of_a_loop_over_patches(images, size, options):
    chosen, _, _ = draws(images[0, 0].numel() * len(images) // size**2, images, size)
    expected, count = patch_by_patch(
        images, size, lambda number, patch: patch.flip(-1) if chosen[2, number] < 0.3 else patch
    )
    assert count == chosen.shape[1]
    assert not torch.equal(expected, images)
    assert torch.equal(augment(images, **options, **OFF | {"flip_prob": 0.3}), expected)


@pytest.mark.parametrize(("images", "size", "options"), CASES)
def test_noise_is_that_of_a_loop_over_patches(images, size, options):
    chosen, _, noise = draws(images[0, 0].numel() * len(images) // size**2, images, size)
    expected, _ = patch_by_patch(
        images, size, lambda number, patch: patch + 0.01 * noise[number] * (chosen[1, number] < 0.3)
    )
    result = augment(images, **options, **OFF | {"noise_prob": 0.3})
    torch.testing.assert_close(result, clamped(expected), rtol=0, atol=1e-12)
    assert 0.008 < (result - images)[result != images].std() < 0.012


def bilinear(patch, row, column):
    """The value between four pixels; those at the border go on outside."""
    size = patch.shape[-1]
    row, column = min(max(row, 0), size - 1), min(max(column, 0), size - 1)
    top, left = min(math.floor(row), size - 2), min(math.floor(column), size - 2)
    down, right = row - top, column - left
    return (1 - down) * ((1 - right) * patch[:, top, left] + right * patch[:, top, left + 1]) + down * (
        (1 - right) * patch[:, top + 1, left] + right * patch[:, top + 1, left + 1]
    )


@pytest.mark.parametrize(("images", "size", "options"), CASES)
def test_crops_are_those_of_a_loop_over_patches(images, size, options):
    chosen, crops, _ = draws(images[0, 0].numel() * len(images) // size**2, images, size)

    def crop(number, patch):
        if chosen[0, number] >= 0.5:
            return patch
        area, top, left = crops[:, number].tolist()
        side = size * math.sqrt(0.85 + 0.15 * area)
        result = torch.empty_like(patch)
        for i in range(size):
            for j in range(size):
                # the middle of pixel i of the result lies at (i + .5) / size of the side of the square
                row = top * (size - side) + (i + 0.5) / size * side - 0.5
                column = left * (size - side) + (j + 0.5) / size * side - 0.5
                result[:, i, j] = bilinear(patch, row, column)
        return result

    expected, _ = patch_by_patch(images, size, crop)
    result = augment(images, **options, **OFF | {"crop_prob": 0.5})
    assert (expected != images).double().mean() > 0.2
    torch.testing.assert_close(result, expected, rtol=0, atol=2e-5)  # grids are float32


def test_each_patch_decides_alone_with_the_given_probability():
    images = images_in_range(64, 3, 64, 64)
    changed = (augment(images, **OFF | {"flip_prob": 0.1}) != images).any(1)
    patches = changed.view(64, 4, 16, 4, 16).any(4).any(2)
    assert 0.07 < patches.double().mean() < 0.13  # 1024 patches: a standard deviation is .009
    everything = (augment(images) != images).any(1).view(64, 4, 16, 4, 16).any(4).any(2)
    assert 0.22 < everything.double().mean() < 0.32  # 1 - .9^3 = .271


def test_values_stay_in_the_range_of_normalised_images():
    low, high = clamped(torch.full((1, 3, 32, 32), -9.0)), clamped(torch.full((1, 3, 32, 32), 9.0))
    for images in (low, high):
        noisy = augment(images, **OFF | {"noise_prob": 1.0})
        assert (noisy >= low).all()
        assert (noisy <= high).all()
        assert 0.3 < (noisy == images).double().mean() < 0.7  # half of the noise points outwards
    assert torch.equal(augment(torch.full((1, 3, 32, 32), 9.0), **OFF), high)


def test_augmentation_follows_from_the_step_without_a_generator():
    images = images_in_range(2, 3, 32, 32)
    results = []
    for step in (1, 2, 1):
        reseed(0, step, 0)
        results.append(patch_augmentation(images, mean=MEAN, std=STD))
    assert torch.equal(results[0], results[2])
    assert not torch.equal(results[0], results[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtype_and_arguments_are_kept(dtype):
    images = images_in_range(2, 3, 32, 64).to(dtype, memory_format=torch.channels_last)
    before = images.clone()
    result = augment(images)
    assert (result.dtype, result.shape) == (dtype, images.shape)
    assert torch.equal(images, before)
    torch.testing.assert_close(result.float(), augment(before.contiguous()).float())


def test_crops_of_bfloat16_images_are_rounded_once():
    images = images_in_range(2, 3, 32, 32).bfloat16()
    exact = augment(images.float(), **OFF | {"crop_prob": 1.0})
    rounded = augment(images, **OFF | {"crop_prob": 1.0})
    assert ((rounded.float() - exact).abs() <= exact.abs() / 256 + 1e-3).all()


def test_autocast_does_not_round_the_crops():
    images = images_in_range(2, 3, 32, 32, dtype=torch.float32)
    expected = augment(images, crop_prob=1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(augment(images, crop_prob=1.0), expected)


def test_images_that_patches_do_not_tile_are_refused():
    with pytest.raises(ValueError, match="expected images that patches of 16 pixels tile, got 40 x 64"):
        augment(images_in_range(1, 3, 40, 64))
    with pytest.raises(ValueError, match="expected a mean and a std for 1 channels, got 3 and 3"):
        augment(torch.zeros(1, 1, 32, 32))
