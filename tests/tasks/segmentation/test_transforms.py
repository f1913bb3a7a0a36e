import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms.v2.functional import to_pil_image

from tapadl.tasks.segmentation.transforms import FillUp, RandomCrop, RandomScale, TrainingTransform

ZERO, ONE = (0.0,) * 3, (1.0,) * 3


def plain(crop_size, **settings):
    """Without a change of what the numbers say, unless it is asked for."""
    given = {"scale": (1.0, 1.0), "max_class_share": 1.0, "hflip": 0.0, "photometric": False, **settings}
    return TrainingTransform(crop_size, mean=given.pop("mean", ZERO), std=given.pop("std", ONE), **given)


def scene_of(mask):
    """A picture whose red says the class."""
    pixels = torch.zeros(3, *mask.shape, dtype=torch.uint8)
    pixels[0] = 20 * mask
    return to_pil_image(pixels)


def blocks(rows=48, cols=64, side=16):
    """Classes 0 to 11 in blocks."""
    row, col = torch.meshgrid(torch.arange(rows) // side, torch.arange(cols) // side, indexing="ij")
    return (row * (cols // side) + col).to(torch.uint8)


def shown_classes(scene):
    return (scene[0] * 255 / 20).round().long()


def test_without_a_change_of_size_every_pixel_keeps_its_class():
    mask = torch.randint(0, 12, (40, 50), dtype=torch.uint8)
    for seed in range(5):
        torch.manual_seed(seed)
        scene, classes = plain((24, 32), hflip=0.5)(scene_of(mask), mask)
        assert torch.equal(shown_classes(scene), classes)
        assert (scene.dtype, classes.dtype) == (torch.float32, torch.int64)
        assert type(scene) is type(classes) is torch.Tensor


def test_picture_and_mask_grow_and_shrink_alike_and_masks_hold_no_new_class():
    transform = plain((24, 32), scale=(0.5, 2.0), hflip=0.5)
    for seed in range(10):
        torch.manual_seed(seed)
        scene, classes = transform(scene_of(blocks()), blocks())
        labelled = classes != 255
        assert set(classes[labelled].tolist()) <= set(range(12))
        differing = (shown_classes(scene) != classes) & labelled
        assert differing.sum() < 0.35 * labelled.sum()  # the rims of the blocks, which are blurred


def test_the_size_is_a_factor_on_the_scenes_own_and_keeps_its_form():
    torch.manual_seed(0)
    sizes = [RandomScale((0.5, 2.0))(tv_tensors.Mask(blocks())).shape for _ in range(100)]
    assert min(rows for rows, _ in sizes) >= 24
    assert max(rows for rows, _ in sizes) <= 96
    assert len(set(sizes)) > 30
    assert all(abs(cols - rows * 64 / 48) < 1.2 for rows, cols in sizes)


def largest_shares(max_class_share, mask, size, draws=60):
    crop = RandomCrop(size, max_class_share)
    shares = []
    for _ in range(draws):
        counts = torch.bincount(crop(tv_tensors.Mask(mask)).flatten().long(), minlength=256)[:255]
        shares.append((counts.max() / counts.sum()).item())
    return shares


def test_no_class_has_more_of_a_crop_than_its_share_where_there_is_such_a_crop():
    mask = (torch.arange(64) >= 32).to(torch.uint8).expand(40, 64).contiguous()
    assert max(largest_shares(0.75, mask, (16, 32))) <= 0.75
    assert max(largest_shares(1.0, mask, (16, 32))) > 0.9


def test_a_scene_of_one_class_is_cropped_all_the_same():
    assert largest_shares(0.75, torch.zeros(40, 64, dtype=torch.uint8), (16, 32), draws=1) == [1.0]


def test_what_does_not_count_has_no_share():
    mask = torch.full((40, 64), 255, dtype=torch.uint8)
    mask[:, ::8] = 0
    mask[:, 4::8] = 1  # half and half of what counts, everywhere
    crop, free = RandomCrop((16, 32), 0.75), RandomCrop((16, 32), 1.0)
    for seed in range(10):
        torch.manual_seed(seed)
        first = free.make_params([tv_tensors.Mask(mask)])
        torch.manual_seed(seed)
        assert crop.make_params([tv_tensors.Mask(mask)]) == first


def test_a_small_scene_is_filled_up_with_the_mean_and_with_what_does_not_count():
    mask = torch.randint(0, 3, (10, 40), dtype=torch.uint8)
    transform = plain((16, 24), mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
    scene, classes = transform(scene_of(mask), mask)
    assert scene.shape == (3, 16, 24)
    assert torch.equal(scene[:, 10:], torch.zeros(3, 6, 24))
    assert (classes[10:] == 255).all()
    assert set(classes[:10].unique().tolist()) <= {0, 1, 2}
    restored = scene[:, :10] * torch.tensor([0.2, 0.25, 0.3])[:, None, None]
    restored += torch.tensor([0.5, 0.4, 0.3])[:, None, None]
    assert torch.equal(shown_classes(restored), classes[:10])
    same = FillUp((10, 40))(tv_tensors.Mask(mask))
    assert torch.equal(same, mask)


def test_a_flip_turns_picture_and_mask_around():
    mask = torch.randint(0, 12, (20, 30), dtype=torch.uint8)
    scene, classes = plain((20, 30))(scene_of(mask), mask)
    flipped, flipped_classes = plain((20, 30), hflip=1.0)(scene_of(mask), mask)
    assert torch.equal(flipped, scene.flip(-1))
    assert torch.equal(flipped_classes, classes.flip(-1))


def test_colours_change_half_of_the_time_each_and_never_the_mask():
    mask = torch.randint(0, 12, (6, 8), dtype=torch.uint8)
    gray = to_pil_image(torch.full((3, 6, 8), 100, dtype=torch.uint8))
    transform = plain((6, 8), photometric=True)
    values = []
    for _ in range(200):
        scene, classes = transform(gray, mask)
        assert torch.equal(classes, mask.long())
        values.append(255 * scene.mean().item())
    # one gray has neither contrast, saturation nor hue: what changes is brightness, by 32/255 at most; each
    # step may round by 1
    assert 100 * (1 - 32 / 255) - 3 <= min(values) < 92
    assert 108 < max(values) <= 100 * (1 + 32 / 255) + 3
    assert 80 <= sum(abs(value - 100) < 1.5 for value in values) <= 145


@pytest.mark.parametrize("settings", [{}, {"hflip": 0.5, "scale": (0.5, 2.0), "photometric": True}])
def test_all_draws_come_from_torch(settings):
    mask = blocks()
    transform = plain((24, 32), max_class_share=0.75, **settings)
    torch.manual_seed(3)
    scene, classes = transform(scene_of(mask), mask)
    again = transform(scene_of(mask), mask)
    assert not torch.equal(again[0], scene)
    torch.manual_seed(3)
    same, same_classes = transform(scene_of(mask), mask)
    assert torch.equal(same, scene)
    assert torch.equal(same_classes, classes)
