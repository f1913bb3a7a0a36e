import itertools
import subprocess
import sys

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from tapadl.corruptions import CORRUPTIONS, SEVERITIES, corrupt

RANDOM = [name for name, row in CORRUPTIONS.items() if row.random]
each_corruption = pytest.mark.parametrize("corruption", CORRUPTIONS)


def corrupt_one_by_one(images, corruption, severity, seed, indices):
    parts = [
        corrupt(image[None], corruption, severity, seed=seed, indices=index[None])
        for image, index in zip(images, indices, strict=True)
    ]
    return torch.cat(parts)


@each_corruption
@pytest.mark.parametrize("shape", [(28, 28, 1), (33, 47, 3)])
def test_an_image_comes_out_the_same_in_any_batch(corruption, shape, pictures):
    images, indices = pictures(9, *shape), torch.tensor([5, 0, 2**40, 7, 8, 3, 9999, 1, 6])
    order = torch.tensor([8, 0, 3, 3, 5, 1, 2, 7, 6, 4, 3])
    for severity in SEVERITIES:
        whole = corrupt(images, corruption, severity, seed=3, indices=indices)
        assert torch.equal(whole, corrupt_one_by_one(images, corruption, severity, 3, indices))
        shuffled = corrupt(images[order], corruption, severity, seed=3, indices=indices[order])
        assert torch.equal(shuffled, whole[order])


@each_corruption
def test_batches_larger_than_a_cache_slice_change_nothing(corruption, pictures):
    images = pictures(5, 28, 28, 1).repeat(80, 1, 1, 1)
    indices = torch.arange(5).repeat(80)
    whole = corrupt(images, corruption, 3, seed=0, indices=indices)
    assert torch.equal(whole, whole[:5].repeat(80, 1, 1, 1))


@pytest.mark.parametrize("corruption", RANDOM)
def test_seed_index_and_nothing_else_change_the_draw(corruption, pictures):
    images = pictures(1, 32, 32).repeat(2, 1, 1, 1)
    first = corrupt(images, corruption, 3, seed=0, indices=torch.tensor([4, 5]))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, corrupt(images, corruption, 3, seed=1, indices=torch.tensor([4, 5])))
    torch.manual_seed(99)
    assert torch.equal(first, corrupt(images, corruption, 3, seed=0, indices=torch.tensor([4, 5])))


@pytest.mark.parametrize("corruption", sorted(set(CORRUPTIONS) - set(RANDOM)))
def test_a_corruption_without_draws_ignores_seed_and_index(corruption, pictures):
    images = pictures(2, 32, 32)
    first = corrupt(images, corruption, 3, seed=0, indices=torch.tensor([0, 1]))
    assert torch.equal(first, corrupt(images, corruption, 3, seed=7, indices=torch.tensor([8, 2])))


def test_another_process_gets_the_same_pixels():
    code = (
        "import torch; from tapadl.corruptions import corrupt; torch.set_num_threads(1);"
        "images = torch.arange(64.).reshape(1, 1, 8, 8) / 64;"
        "print([corrupt(images, name, 2, seed=5, indices=torch.tensor([3])).double().sum().item()"
        " for name in ('shot_noise', 'glass_blur', 'motion_blur', 'snow', 'frost', 'spatter',"
        " 'elastic_transform')])"
    )
    runs = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout for _ in "ab"
    }
    assert len(runs) == 1


@settings(max_examples=120, deadline=None)
@given(
    corruption=st.sampled_from(sorted(CORRUPTIONS)),
    severity=st.sampled_from(SEVERITIES),
    channels=st.sampled_from([1, 3]),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    image_size=st.none() | st.sampled_from([16, 32, 64, 100, 224, 256]),
    kind=st.sampled_from(["uniform", "black", "white", "extremes"]),
    seed=st.integers(0, 2**64 - 1),
)
def test_any_image_stays_an_image(corruption, severity, channels, height, width, image_size, kind, seed):
    noise = torch.rand(3, channels, height, width, generator=torch.Generator().manual_seed(seed % 2**63))
    images = {
        "uniform": noise,
        "black": torch.zeros_like(noise),
        "white": torch.ones_like(noise),
        "extremes": noise.round(),
    }[kind]
    before, indices = images.clone(), torch.tensor([0, 2**63 - 1, 17])
    corrupted = corrupt(images, corruption, severity, seed=seed, indices=indices, image_size=image_size)
    assert torch.equal(images, before)
    assert corrupted.shape == images.shape
    assert corrupted.dtype == torch.float32
    assert corrupted.min() >= 0
    assert corrupted.max() <= 1
    last = corrupt(images[2:], corruption, severity, seed=seed, indices=indices[2:], image_size=image_size)
    assert torch.equal(last, corrupted[2:])


@each_corruption
@pytest.mark.parametrize(("height", "width"), [(8, 8), (1, 9), (9, 1), (1, 1), (2, 64), (64, 2)])
def test_images_of_a_few_pixels_pass(corruption, height, width):
    images = torch.rand(2, 3, height, width)
    for severity, image_size in itertools.product((1, 5), (None, 224)):
        corrupted = corrupt(
            images, corruption, severity, seed=0, indices=torch.arange(2), image_size=image_size
        )
        assert corrupted.isfinite().all()


# Where only these severities differ clearly in strength. Fog from 3 on: the cloud becomes rougher, hardly
# thicker. Motion blur from 3 to 4: the radius grows, but sigma leaves no weight out there. Water turns to mud
# from 3 to 4.
NEARLY_EQUAL_ELSEWHERE = {
    ("fog", 224): (1, 2, 3),
    ("motion_blur", 32): (1, 2, 3, 5),
    ("spatter", 224): (1, 2, 3),
    ("spatter", 64): (1, 2, 3),
    ("spatter", 32): (1, 2, 3),
}
# Whose severities trade one thing for another: passes for filter, image for frost, gray for colour.
NOT_ORDERED = {"glass_blur", "frost", "saturate", "elastic_transform"}


@pytest.mark.parametrize("corruption", [name for name in CORRUPTIONS if name not in NOT_ORDERED])
@pytest.mark.parametrize("side", [224, 64, 32])
def test_change_grows_with_severity(corruption, side, pictures):
    images = pictures(6 if side == 224 else 24, side, side)
    if corruption == "fog":
        images = images[:1].repeat(48, 1, 1, 1)
    indices = torch.arange(len(images))
    changes = [
        (corrupt(images, corruption, severity, seed=0, indices=indices) - images).abs().mean().item()
        for severity in NEARLY_EQUAL_ELSEWHERE.get((corruption, side), SEVERITIES)
    ]
    assert changes[0] > 0
    assert all(weaker < stronger for weaker, stronger in itertools.pairwise(changes)), changes


# Noise is drawn for each channel; frost and spatter have a colour; a gray pixel counts as red in HSV.
@pytest.mark.parametrize(
    "corruption",
    [
        name
        for name, row in CORRUPTIONS.items()
        if row.group != "noise" and name not in ("frost", "spatter", "saturate")
    ],
)
def test_gray_images_are_corrupted_like_colour_images_of_three_equal_channels(corruption, pictures):
    gray = pictures(3, 40, 40, 1)
    indices = torch.arange(3)
    alone = corrupt(gray, corruption, 4, seed=0, indices=indices)
    colour = corrupt(gray.repeat(1, 3, 1, 1), corruption, 4, seed=0, indices=indices)
    # Gray and colour JPEG share the luma path; the way from YCbCr back to RGB may round.
    tolerance = 1.01 / 255 if corruption == "jpeg_compression" else 1e-6
    torch.testing.assert_close(alone.repeat(1, 3, 1, 1), colour, atol=tolerance, rtol=0)


@each_corruption
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_floating_dtype_gives_float32(corruption, dtype, pictures):
    images = pictures(2, 16, 16).to(dtype)
    corrupted = corrupt(images, corruption, 2, seed=0, indices=torch.arange(2))
    assert corrupted.dtype == torch.float32
    assert torch.equal(corrupted, corrupt(images.float(), corruption, 2, seed=0, indices=torch.arange(2)))


@each_corruption
def test_memory_layout_and_gradients_do_not_matter(corruption, pictures):
    images = pictures(2, 24, 20)
    expected = corrupt(images, corruption, 3, seed=0, indices=torch.arange(2))
    other = images.to(memory_format=torch.channels_last).requires_grad_()
    corrupted = corrupt(other, corruption, 3, seed=0, indices=torch.arange(2, dtype=torch.int32))
    assert torch.equal(corrupted, expected)
    assert not corrupted.requires_grad


def test_smaller_side_chooses_the_constants(pictures):
    images = pictures(1, 64, 40)
    indices = torch.tensor([0])
    short = corrupt(images, "gaussian_blur", 5, seed=0, indices=indices)
    assert torch.equal(short, corrupt(images, "gaussian_blur", 5, seed=0, indices=indices, image_size=40))
    assert not torch.equal(short, corrupt(images, "gaussian_blur", 5, seed=0, indices=indices, image_size=64))


GOOD = torch.full((2, 3, 8, 8), 0.5)
BAD_PIXEL = GOOD.clone()
BAD_PIXEL[1, 2, 3, 4] = float("nan")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"corruption": "mist"},
            r"expected a corruption out of gaussian_noise, .*saturate, got 'mist'",
        ),
        ({"severity": 0}, "expected a severity out of 1, 2, 3, 4, 5, got 0"),
        ({"severity": 6}, "expected a severity out of 1, 2, 3, 4, 5, got 6"),
        ({"severity": 2.5}, r"expected a severity out of 1, 2, 3, 4, 5, got 2\.5"),
        ({"severity": 3.0}, r"expected a severity out of 1, 2, 3, 4, 5, got 3\.0"),
        ({"severity": True}, "expected a severity out of 1, 2, 3, 4, 5, got True"),
        ({"images": [[0.5]]}, r"expected images to be a torch\.Tensor, got list"),
        ({"images": GOOD[0]}, r"expected images of shape \(B, C, H, W\) .* got \(3, 8, 8\)"),
        ({"images": GOOD[:, :2]}, r"with 1 or 3 channels .* got \(2, 2, 8, 8\)"),
        ({"images": GOOD[:0]}, r"no side of length 0, got \(0, 3, 8, 8\)"),
        (
            {"images": (GOOD * 255).byte()},
            r"floating point dtype .* got torch\.uint8; divide 8-bit images by 255",
        ),
        ({"images": GOOD.long()}, r"floating point dtype .* got torch\.int64"),
        ({"images": GOOD * 255}, r"values in 0\.\.1, got values from 127\.5 to 127\.5"),
        ({"images": GOOD - 0.6}, r"values in 0\.\.1, got values from -0\.10\d* to -0\.10\d*"),
        ({"images": GOOD + 0.5000001}, r"values in 0\.\.1, got values from 1\.0000001\d* to 1\.0000001\d*"),
        ({"images": BAD_PIXEL}, r"values in 0\.\.1, got values from nan to nan"),
        ({"images": GOOD * float("inf")}, r"values in 0\.\.1, got values from inf to inf"),
        ({"indices": [0, 1]}, r"expected indices to be a torch\.Tensor, got list"),
        ({"indices": torch.tensor([0.0, 1.0])}, r"expected indices of an integer dtype, got torch\.float32"),
        ({"indices": torch.tensor([True, False])}, r"expected indices of an integer dtype, got torch\.bool"),
        ({"indices": torch.arange(3)}, r"expected indices of shape \(2,\), one for each image, got \(3,\)"),
        ({"indices": torch.tensor([0, -1])}, "expected indices of at least 0, got -1"),
        ({"seed": -1}, r"expected seed to be an integer from 0 to 2\*\*64 - 1, got -1"),
        ({"seed": 2**64}, r"expected seed to be an integer from 0 to 2\*\*64 - 1"),
        ({"seed": 0.5}, r"expected seed to be an integer .* got 0\.5"),
        ({"seed": None}, "expected seed to be an integer .* got None"),
        ({"image_size": 0}, "expected image_size to be an integer from 1 to 65536 pixels, got 0"),
        (
            {"image_size": float("inf")},
            "expected image_size to be an integer from 1 to 65536 pixels, got inf",
        ),
        ({"image_size": 10**9}, "expected image_size to be an integer from 1 to 65536 pixels, got 10{9}"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    good = {"images": GOOD, "corruption": "fog", "severity": 3, "seed": 0, "indices": torch.arange(2)}
    call = good | arguments
    with pytest.raises(ValueError, match=message):
        corrupt(call.pop("images"), call.pop("corruption"), call.pop("severity"), **call)


@pytest.mark.gpu
@each_corruption
def test_the_gpu_draws_the_same_and_keeps_batches_apart(corruption, pictures):
    images, indices = pictures(6, 64, 64), torch.arange(6)
    on_gpu = corrupt(images.cuda(), corruption, 3, seed=0, indices=indices.cuda())
    assert on_gpu.is_cuda
    # The GPU reads between pixels with other roundings of the position.
    tolerance = 1e-4 if corruption == "elastic_transform" else 2e-6
    torch.testing.assert_close(
        on_gpu.cpu(), corrupt(images, corruption, 3, seed=0, indices=indices), atol=tolerance, rtol=0
    )
    alone = corrupt(images[4:5].cuda(), corruption, 3, seed=0, indices=indices[4:5])
    assert torch.equal(alone, on_gpu[4:5])
