import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.loader import PrefetchLoader
from timm.data.transforms_factory import create_transform

from tapadl.data.random_state import seed_cpu_generators
from tapadl.training.transforms import Normalise, evaluation_transform, posterize, training_transform

MODEL = {"image_size": (32, 48), "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def picture(width=60, height=50, mode="RGB"):
    channels = (3,) if mode == "RGB" else ()
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, *channels), np.uint8))


def drawn(transform, number=0):
    seed_cpu_generators("test", number)
    return transform(picture())


@pytest.mark.parametrize(
    "options",
    [
        {"color_jitter": 0.4},
        {"auto_augment": "rand-m9-mstd0.5-inc1", "interpolation": "random"},
        {"scale": (0.3, 0.5), "ratio": (1.0, 1.1), "hflip": 1.0, "interpolation": "bilinear"},
    ],
)
def test_images_are_those_of_timm(options):
    ours = training_transform(**MODEL, **options)
    theirs = create_transform(
        (3, 32, 48),
        is_training=True,
        mean=MODEL["mean"],
        std=MODEL["std"],
        **{"color_jitter": None, "interpolation": "bicubic", **options},
    )
    for number in range(20):
        torch.testing.assert_close(drawn(ours, number), drawn(theirs, number), rtol=0, atol=2e-6)


def test_augmix_is_that_of_timm_at_strength_3():
    ours = training_transform(**MODEL, augmix=True)
    theirs = training_transform(**MODEL, auto_augment="augmix-m3-w3")
    plain = training_transform(**MODEL)
    assert all(torch.equal(drawn(ours, number), drawn(theirs, number)) for number in range(5))
    assert not any(torch.equal(drawn(ours, number), drawn(plain, number)) for number in range(5))


def test_normalisation_is_to_the_bit_that_of_the_loader_of_timm():
    pixels = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    loader = PrefetchLoader(
        [(pixels, torch.arange(4))], mean=MODEL["mean"], std=MODEL["std"], device=torch.device("cpu")
    )
    ((expected, _),) = loader
    normalise = Normalise(MODEL["mean"], MODEL["std"])
    assert torch.equal(torch.stack([normalise(image) for image in pixels]), expected)


@pytest.mark.parametrize("mode", ["const", "rand", "pixel"])
def test_erasing_fills_a_rectangle_of_the_normalised_image(mode):
    kept = drawn(training_transform(**MODEL))
    erased = drawn(training_transform(**MODEL, reprob=1.0, remode=mode))
    changed = (erased != kept).any(0)
    rows, columns = changed.any(1), changed.any(0)
    assert torch.equal(changed, rows[:, None] & columns)
    assert 0.015 < changed.double().mean() < 0.35
    inside = erased[:, changed]
    values = {"const": 1, "rand": 3, "pixel": inside.numel()}[mode]
    assert len(inside.unique()) == values
    if mode == "const":
        assert (inside == 0).all()


def test_erasing_happens_with_the_given_probability():
    transform, plain = training_transform(**MODEL, reprob=0.3), training_transform(**MODEL)
    erased = [not torch.equal(drawn(transform, number), drawn(plain, number)) for number in range(200)]
    assert 40 < sum(erased) < 80


@pytest.mark.parametrize(
    "word", ["rand-m10-n9-p1-inc1", "rand-m0-n9-p1", "v0", "original", "3a", "augmix-m10-w3"]
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_no_strength_of_an_operation_fails(word, mode):
    channels = 3 if mode == "RGB" else 1
    transform = training_transform(
        image_size=(8, 8), mean=(0.5,) * channels, std=(0.5,) * channels, auto_augment=word
    )
    for number in range(40):
        seed_cpu_generators("test", number)
        assert transform(picture(9, 9, mode)).isfinite().all()


@pytest.mark.parametrize("word", ["rand-m10-n9-p1-inc1", "v0", "augmix-m10"])
def test_posterize_to_no_bits_is_black_in_every_policy(word):
    transform = training_transform(**MODEL, auto_augment=word)
    text = repr([getattr(step, "policy", getattr(step, "ops", None)) for step in transform.transforms])
    assert "Poster" in text
    operations = [
        operation
        for step in transform.transforms
        for group in (getattr(step, "policy", None) or [getattr(step, "ops", [])])
        for operation in group
        if operation.name.startswith("Poster")
    ]
    assert operations
    assert all(operation.aug_fn is posterize for operation in operations)


@pytest.mark.parametrize("bits", range(9))
def test_posterize_keeps_the_first_bits(bits):
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    kept = np.array(posterize(Image.fromarray(pixels), bits))
    assert np.array_equal(kept, pixels >> (8 - bits) << (8 - bits) if bits else np.zeros_like(pixels))


def test_gray_and_transparent_pictures_become_what_the_model_takes():
    assert training_transform(**MODEL)(picture(mode="L")).shape == (3, 32, 48)
    gray = training_transform(image_size=(28, 28), mean=(0.3,), std=(0.3,))
    assert gray(picture()).shape == (1, 28, 28)
    assert gray(picture().convert("RGBA")).shape == (1, 28, 28)


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_evaluation_crops_as_timm_does_and_draws_nothing(crop_mode):
    options = {"crop_pct": 0.8, "crop_mode": crop_mode, "interpolation": "bicubic"}
    state = torch.get_rng_state()
    ours = evaluation_transform(**MODEL, **options)
    theirs = create_transform((3, 32, 48), mean=MODEL["mean"], std=MODEL["std"], **options)
    torch.testing.assert_close(ours(picture()), theirs(picture()), rtol=0, atol=2e-6)
    assert torch.equal(state, torch.get_rng_state())


def test_transforms_reach_the_processes_of_a_loader():
    transform = training_transform(**MODEL, auto_augment="rand-m9-mstd0.5-inc1", reprob=0.5)
    assert torch.equal(drawn(pickle.loads(pickle.dumps(transform)), 3), drawn(transform, 3))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"scale": (0.5, 0.1)}, r"expected scale \(from, to\) above 0, .* got \(0\.5, 0\.1\)"),
        ({"ratio": (0, 1)}, "expected ratio"),
        ({"hflip": 2}, "expected hflip from 0 to 1, got 2"),
        ({"reprob": -0.5}, r"expected reprob from 0 to 1, got -0\.5"),
        ({"remode": "noise"}, "expected remode out of const, rand, pixel, got 'noise'"),
        ({"augmix": True, "auto_augment": "3a"}, "expected augmix or auto_augment, got both"),
        ({"auto_augment": "rand-m9-q2"}, "auto_augment 'rand-m9-q2'"),
        ({"auto_augment": "best"}, "auto_augment 'best'"),
        ({"interpolation": "cubic"}, "interpolation 'cubic'"),
        ({"std": (1.0,)}, "expected a mean and a std for 3 channels or for 1, got 3 and 1"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        training_transform(**{**MODEL, **options})


def test_a_crop_of_nothing_is_refused():
    with pytest.raises(ValueError, match="expected a crop_pct above 0 to 1, got 0"):
        evaluation_transform(**MODEL, crop_pct=0)
