import pytest
import torch

from tapadl.corruptions.perturbations import PERTURBATIONS, perturb, sequence_constants

RANDOM = [name for name, row in PERTURBATIONS.items() if row.random]
NOISES = [name for name, row in PERTURBATIONS.items() if row.group == "noise"]


@pytest.mark.parametrize("perturbation", PERTURBATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_sequence_has_31_frames_in_range_and_leaves_the_images_alone(pictures, perturbation, channels):
    images = pictures(2, 37, 41, channels)
    before = images.clone()
    sequences = perturb(images, perturbation, seed=0, indices=torch.arange(2), crop_size=32)
    assert (sequences.shape, sequences.dtype) == ((2, 31, channels, 32, 32), torch.float32)
    assert sequences.min() >= 0
    assert sequences.max() <= 1
    assert torch.equal(images, before)
    # little changes from frame to frame, and nearly always something does
    steps = (sequences[:, 1:] - sequences[:, :-1]).abs().mean(dim=(0, 2, 3, 4))
    assert (steps > 0).float().mean() > 0.9
    assert steps.max() < 0.15


@pytest.mark.parametrize("perturbation", PERTURBATIONS)
def test_batches_order_and_dtype_do_not_matter(pictures, perturbation):
    images = (pictures(5, 33, 40) * 255).round() / 255
    indices = torch.tensor([4, 0, 7, 2, 9])
    together = perturb(images, perturbation, seed=1, indices=indices)
    alone = perturb(images[3:4], perturbation, seed=1, indices=indices[3:4])
    assert torch.equal(alone[0], together[3])
    strided = images.transpose(2, 3).contiguous().transpose(2, 3)
    assert torch.equal(perturb(strided, perturbation, seed=1, indices=indices), together)


@pytest.mark.parametrize("perturbation", RANDOM)
def test_seed_and_index_change_what_is_drawn(pictures, perturbation):
    images = pictures(1, 48, 48).expand(2, -1, -1, -1)
    first, second = perturb(images, perturbation, seed=1, indices=torch.tensor([0, 1]))[:, -1]
    other = perturb(images[:1], perturbation, seed=2, indices=torch.tensor([0]))[0, -1]
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("perturbation", sorted(set(PERTURBATIONS) - set(RANDOM)))
def test_seed_and_index_change_nothing_where_nothing_is_drawn(pictures, perturbation):
    images = pictures(1, 32, 32)
    first = perturb(images, perturbation, seed=1, indices=torch.tensor([0]))
    assert torch.equal(perturb(images, perturbation, seed=2, indices=torch.tensor([5])), first)


def test_the_ten_of_imagenet_p_come_first_and_four_are_for_validation():
    names = "gaussian_noise shot_noise motion_blur zoom_blur snow brightness translate rotate tilt scale"
    assert [name for name, row in PERTURBATIONS.items() if row.in_mfr] == names.split()
    assert list(PERTURBATIONS)[10:] == ["speckle_noise", "gaussian_blur", "spatter", "shear"]


def test_lengths_grow_with_the_image_and_nothing_else():
    at_224, at_448 = (sequence_constants("snow", side).values for side in (224, 448))
    assert (at_448["radius"], at_448["sigma"], at_448["zoom"]) == (28, 8, 6)
    assert at_448["std"] == at_224["std"]
    assert not sequence_constants("snow", 224).scaled
    assert sequence_constants("snow", 448).published_size == 224


@pytest.mark.parametrize("perturbation", NOISES)
def test_a_noise_is_stronger_at_a_higher_difficulty(perturbation):
    images = torch.full((1, 3, 64, 64), 0.5)
    spreads = [
        perturb(images, perturbation, seed=0, indices=torch.tensor([0]), difficulty=level)[0, 1:].std().item()
        for level in (1, 2, 3)
    ]
    assert spreads[0] * 1.2 < spreads[1]
    assert spreads[1] * 1.2 < spreads[2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"perturbation": "fog"}, "expected a perturbation out of gaussian_noise, .*shear, got 'fog'"),
        ({"difficulty": 2}, "expected a difficulty of tilt out of 1, got 2"),
        ({"perturbation": "shot_noise", "difficulty": 4}, "of shot_noise out of 1, 2, 3, got 4"),
        ({"crop_size": 33}, "expected crop_size to be an integer from 1 to 32 pixels, got 33"),
        ({"crop_size": 0}, "got 0"),
        ({"image_size": 0}, "expected image_size"),
        ({"seed": -1}, "expected seed"),
        ({"indices": torch.tensor([0])}, r"expected indices of shape \(2,\)"),
        ({"images": torch.rand(3, 32, 32)}, r"expected images of shape \(B, C, H, W\)"),
        ({"images": torch.rand(2, 3, 32, 32) - 1}, "values in 0..1"),
    ],
)
def test_wrong_arguments_are_named(changes, message):
    arguments = {
        "images": torch.rand(2, 3, 32, 40),
        "perturbation": "tilt",
        "seed": 0,
        "indices": torch.arange(2),
    }
    with pytest.raises(ValueError, match=message):
        perturb(**(arguments | changes))


@pytest.mark.gpu
@pytest.mark.parametrize("perturbation", PERTURBATIONS)
def test_a_gpu_makes_the_same_frames(pictures, perturbation):
    images, indices = pictures(2, 72, 72), torch.arange(2)
    on_cpu = perturb(images, perturbation, seed=3, indices=indices, crop_size=64)
    on_gpu = perturb(images.cuda(), perturbation, seed=3, indices=indices, crop_size=64)
    assert on_gpu.is_cuda
    # a step of 8 bits where rounding goes the other way
    different = (on_gpu.cpu() - on_cpu).abs()
    assert different.mean() < 1e-5
    assert different.max() < 0.05
