import pickle
from collections import namedtuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from tapadl.corruptions import CORRUPTIONS, CorruptionTransform, corrupt, corrupt_image


@pytest.fixture
def image(picture):
    return Image.fromarray(picture(40, 56))


def as_batch(image):
    pixels = torch.from_numpy(np.array(image).reshape(image.height, image.width, -1))
    return pixels.permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("corruption", ["gaussian_noise", "motion_blur", "jpeg_compression"])
def test_one_image_equals_the_batch_of_one_rounded_to_bytes(image, mode, corruption):
    image = image.convert(mode)
    corrupted = corrupt_image(image, corruption, 4, seed=3, index=11)
    assert (corrupted.mode, corrupted.size) == (mode, image.size)
    expected = corrupt(as_batch(image), corruption, 4, seed=3, indices=torch.tensor([11])) * 255
    assert (as_batch(corrupted) * 255 - expected).abs().max() <= 0.5001


def test_constants_of_another_size_can_be_asked_for(image):
    small = corrupt_image(image, "gaussian_noise", 5, seed=0, index=0)
    large = corrupt_image(image, "gaussian_noise", 5, seed=0, index=0, image_size=224)
    assert np.std(np.float32(large)) > 1.2 * np.std(np.float32(small))


@pytest.mark.parametrize("mode", ["RGBA", "P", "1", "CMYK", "I;16", "F"])
def test_other_modes_are_refused_with_what_to_do(mode):
    with pytest.raises(ValueError, match=rf"of mode RGB or L, got {mode}; convert it with image\.convert"):
        corrupt_image(Image.new(mode, (8, 8)), "fog", 1, seed=0, index=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"index": -1}, r"index to be an integer from 0 to 2\*\*63 - 1, got -1"),
        ({"index": True}, "got True"),
        ({"index": 2**63}, "got 9223372036854775808"),
        ({"seed": -1}, "expected seed"),
        ({"image": np.zeros((8, 8, 3))}, "expected a PIL image, got ndarray"),
    ],
)
def test_wrong_arguments_are_named(image, changes, message):
    arguments = {"image": image, "corruption": "fog", "severity": 1, "seed": 0, "index": 0} | changes
    with pytest.raises(ValueError, match=message):
        corrupt_image(**arguments)


def test_the_largest_index_is_accepted(image):
    assert corrupt_image(image, "gaussian_noise", 1, seed=2**64 - 1, index=2**63 - 1).size == image.size


@pytest.mark.parametrize("seed", [None, 5])
def test_kinds_of_images_come_back_as_they_came(picture, image, seed):
    transform = CorruptionTransform("contrast", 5, seed=seed)
    tensor = torch.from_numpy(picture(40, 56)).permute(2, 0, 1)
    expected = (as_batch(transform(image))[0] * 255).to(torch.uint8)
    for given in (tensor, tv_tensors.Image(tensor), tensor[None], tensor / 255, (tensor / 255).double()):
        corrupted = transform(given)
        assert (type(corrupted), corrupted.dtype, corrupted.shape) == (type(given), given.dtype, given.shape)
        in_bytes = corrupted if given.dtype == torch.uint8 else (corrupted * 255).round().to(torch.uint8)
        assert torch.equal(in_bytes.view(expected.shape).as_subclass(torch.Tensor), expected)
    assert torch.equal(tensor, torch.from_numpy(picture(40, 56)).permute(2, 0, 1))


def test_only_the_image_of_a_sample_changes(image):
    Sample = namedtuple("Sample", "picture label")
    boxes = tv_tensors.BoundingBoxes([[1, 2, 30, 20]], format="XYXY", canvas_size=(40, 56))
    mask = tv_tensors.Mask(torch.ones(40, 56))
    transform = CorruptionTransform("contrast", 5)
    corrupted, target = transform(image, {"boxes": boxes, "mask": mask, "id": torch.tensor(7)})
    assert np.std(np.float32(corrupted)) < 0.5 * np.std(np.float32(image))
    assert target["boxes"] is boxes
    assert target["mask"] is mask
    assert target["id"] == 7
    named = transform(Sample(image, 3))
    assert (type(named), named.label, named.picture.mode) == (Sample, 3, "RGB")
    # without a picture of a known kind, the first plain tensor is one, as in torchvision
    first, second = transform([torch.rand(3, 8, 8), kept := torch.rand(5)])
    assert first.shape == (3, 8, 8)
    assert second is kept


def test_it_stands_in_a_pipeline_of_torchvision(image):
    pipeline = v2.Compose(
        [
            v2.Resize(32),
            v2.CenterCrop(32),
            v2.ToImage(),
            CorruptionTransform(severities=5, seed=1),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.5], [0.5]),
        ]
    )
    first, label = pipeline(image, 4)
    assert (type(first), first.shape, label) == (tv_tensors.Image, (3, 32, 32), 4)
    assert torch.equal(pipeline(image, 4)[0], first)


class Pictures(Dataset):
    def __init__(self, images, transform):
        self.images, self.transform = images, transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return index, self.transform(self.images[index])


@pytest.mark.parametrize("workers", [1, 2])
def test_with_a_seed_workers_batches_and_order_do_not_matter(pictures, workers):
    images = (pictures(6, 24, 24) * 255).to(torch.uint8)
    transform = CorruptionTransform(["gaussian_noise", "fog", "motion_blur"], seed=9)
    loader = DataLoader(Pictures(images, transform), batch_size=2, shuffle=True, num_workers=workers)
    seen = {}
    for indices, batch in loader:
        seen |= zip(indices.tolist(), batch, strict=True)
    together = transform(images)
    for index, one in seen.items():
        assert torch.equal(one, together[index])
    assert not torch.equal(CorruptionTransform(["gaussian_noise"], seed=10)(images), together)


def test_without_a_seed_calls_differ_and_torchs_seed_repeats_them(pictures):
    images = pictures(1, 24, 24)[0]
    transform = CorruptionTransform("gaussian_noise", 3)
    torch.manual_seed(4)
    first, second = transform(images), transform(images)
    torch.manual_seed(4)
    assert torch.equal(transform(images), first)
    assert not torch.equal(first, second)


def test_every_choice_is_picked_about_equally_often():
    # contrast at a known mean and spread gives away which severity was picked
    transform = CorruptionTransform(["contrast", "brightness"], (1, 5))
    image = torch.zeros(3, 4, 4)
    image[:, :2] = 0.5
    counts = {}
    for _ in range(400):
        result = transform(image)
        counts[round(result[0, 0, 0].item(), 4)] = counts.get(round(result[0, 0, 0].item(), 4), 0) + 1
    assert len(counts) == 4
    # four equal chances: 100 each, standard deviation 8.7
    assert all(100 - 44 < count < 100 + 44 for count in counts.values())


def test_by_default_the_fifteen_of_the_mean_corruption_error_are_picked_from():
    transform = CorruptionTransform()
    assert transform.corruptions == tuple(name for name, row in CORRUPTIONS.items() if row.in_mce)
    assert transform.severities == (1, 2, 3, 4, 5)


def test_a_copy_in_another_process_does_the_same(pictures):
    transform = CorruptionTransform(seed=2)
    image = pictures(1, 32, 32)[0]
    assert torch.equal(pickle.loads(pickle.dumps(transform))(image), transform(image))
    assert "seed=2" in repr(transform)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"corruptions": "mist"}, "expected a corruption out of"),
        ({"severities": 6}, "expected a severity"),
        ({"corruptions": []}, "at least one corruption"),
        ({"severities": ()}, "one severity"),
        ({"seed": -1}, "expected seed"),
        ({"image_size": 0}, "expected image_size"),
    ],
)
def test_wrong_settings_are_named_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        CorruptionTransform(**arguments)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (torch.rand(8, 8), r"\(C, H, W\) or \(B, C, H, W\), got \(8, 8\)"),
        (torch.randn(3, 8, 8), "values in 0..1"),
        (torch.full((3, 8, 8), torch.nan), "values in 0..1"),
        (torch.ones(3, 8, 8, dtype=torch.int64), "floating point dtype"),
        (torch.rand(0, 3, 8, 8), "no side of length 0"),
        (("a", 1), "expected a PIL image or an image tensor in the sample, got str, int"),
        ({}, "got nothing"),
        (Image.new("RGBA", (8, 8)), "got RGBA"),
    ],
)
@pytest.mark.parametrize("seed", [None, 0])
def test_what_is_no_image_is_named(sample, message, seed):
    with pytest.raises(ValueError, match=message):
        CorruptionTransform("fog", seed=seed)(sample)
