"""Images and masks for training."""

import numpy as np
import pytest
import torch

from tapadl.data.segmentation import LabelScheme, SegmentationFiles, SegmentationTrainingSet

SCHEME = LabelScheme(("a", "b"), (0, 1), (255,), ((1, 1, 1), (2, 2, 2)))


@pytest.fixture
def files(tmp_path, write):
    for number in range(4):
        write(tmp_path / f"{number}.png", np.full((2, 3, 3), number))
        write(tmp_path / f"{number}_mask.png", np.full((2, 3), number % 2))
    images = tuple(f"{number}.png" for number in range(4))
    return SegmentationFiles(tmp_path, images, tuple(f"{n}_mask.png" for n in range(4)), SCHEME)


def shifted(image, mask):
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
    return pixels + torch.rand(()), torch.from_numpy(mask).long()


def test_an_item_follows_from_seed_epoch_and_index(files):
    items = SegmentationTrainingSet(files, shifted, seed=3)
    image, mask = items[1, 3]
    assert (image.dtype, image.shape, mask.dtype) == (torch.float32, (3, 2, 3), torch.int64)
    assert image.floor().eq(3).all()
    assert mask.eq(1).all()
    items[0, 0]
    assert torch.equal(items[1, 3][0], image)
    assert not torch.equal(items[2, 3][0], image)
    assert not torch.equal(SegmentationTrainingSet(files, shifted, seed=4)[1, 3][0], image)


def test_what_cannot_be_read_is_skipped_where_allowed_and_told(files):
    (files.root / "1_mask.png").write_bytes(b"no picture")
    with pytest.raises(OSError, match=r"1_mask\.png"):
        SegmentationTrainingSet(files, shifted, seed=0)[0, 1]
    items = SegmentationTrainingSet(files, shifted, seed=0, on_error="skip")
    image, mask = items[0, 1]
    assert image.floor().eq(2).all()
    assert mask.eq(0).all()
    assert items.unreadable == [files.location(1)]


def test_images_without_masks_cannot_be_trained_on(files):
    from dataclasses import replace

    with pytest.raises(ValueError, match="expected label files"):
        SegmentationTrainingSet(replace(files, masks=()), shifted, seed=0)
