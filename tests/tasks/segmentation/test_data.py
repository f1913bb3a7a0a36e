import pytest
import torch
from PIL import Image

from tapadl.data.segmentation import LabelScheme, SegmentationFiles
from tapadl.tasks.segmentation import data
from tapadl.tasks.segmentation.model import SegmenterDescription
from tapadl.training.settings import (
    AugmentationSettings,
    DataSettings,
    ModelSettings,
    SegmentationSettings,
    Settings,
)


def scheme(*names):
    return LabelScheme(
        names, tuple(range(len(names))), (255,), tuple((place, 0, 0) for place in range(len(names)))
    )


def settings(**segmentation):
    return Settings(
        ModelSettings("test_vit"),
        DataSettings("one", val="other"),
        task="segmentation",
        segmentation=SegmentationSettings(**segmentation),
        augmentation=AugmentationSettings(hflip=0.0),
    )


@pytest.fixture
def opened(monkeypatch):
    """What `open_segmentation` gives for each split, and what it was asked for."""
    files, asked = {}, []

    def open_segmentation(dataset, root, split):
        asked.append((dataset, str(root), split))
        return files[split]

    monkeypatch.setattr(data, "open_segmentation", open_segmentation)
    return files, asked


def test_masks_in_which_no_pixel_counts_are_refused(opened, tmp_path):
    files, _ = opened
    for split, number in (("train", 1), ("val", 255)):
        paths = tuple(f"{split}{place}.png" for place in range(3))
        for path in paths:
            Image.new("L", (4, 3), number).save(tmp_path / path)
        files[split] = SegmentationFiles(tmp_path, paths, paths, scheme("a", "b"))
    with pytest.raises(
        ValueError, match=r"expected pixels that count in the masks of .*, got none in any of 3;"
    ):
        data.open_data(settings())


def test_one_root_is_trained_on_and_the_val_part_of_the_other_evaluated(opened, tmp_path):
    files, asked = opened
    for split in ("train", "val"):
        files[split] = SegmentationFiles(
            tmp_path, (f"{split}.png",), (f"{split}-mask.png",), scheme("a", "b")
        )
    found = data.open_data(settings(dataset="acdc"))
    assert (found.train, found.val) == (files["train"], files["val"])
    assert asked == [("acdc", "one", "train"), ("acdc", "other", "val")]


def test_other_classes_and_images_without_masks_are_refused(opened, tmp_path):
    files, _ = opened
    files["train"] = SegmentationFiles(tmp_path, ("a.png",), ("b.png",), scheme("a", "b"))
    files["val"] = SegmentationFiles(tmp_path, ("a.png",), ("b.png",), scheme("a", "c"))
    with pytest.raises(ValueError, match="expected the same classes in one and other, got a, b and a, c"):
        data.open_data(settings())
    files["val"] = SegmentationFiles(tmp_path, ("a.png",), (), scheme("a", "b"))
    with pytest.raises(ValueError, match=r"expected masks in .*, got images alone"):
        data.open_data(settings())


def test_an_item_follows_from_seed_epoch_and_index_whatever_reads_it(tmp_path):
    names = []
    for number in range(3):
        Image.effect_noise((40, 36), 90).convert("RGB").save(tmp_path / f"{number}.png")
        Image.new("L", (40, 36), number % 2).save(tmp_path / f"{number}-mask.png")
        names.append(f"{number}.png")
    masks = tuple(name.replace(".png", "-mask.png") for name in names)
    files = SegmentationFiles(tmp_path, tuple(names), masks, scheme("a", "b"))
    description = SegmenterDescription("x", files.scheme, (0.5,) * 3, (0.25,) * 3)
    training_set = data.make_training_set(files, settings(crop_size=(24, 32)), description)
    places = [(0, 0), (0, 2), (1, 0)]
    first = [training_set[place] for place in places]
    loader = torch.utils.data.DataLoader(training_set, batch_sampler=[places[::-1]], num_workers=1)
    ((images, classes),) = list(loader)
    for place, (image, mask) in enumerate(reversed(first)):
        assert torch.equal(images[place], image)
        assert torch.equal(classes[place], mask)
    assert not torch.equal(first[0][0], first[2][0])  # another epoch, another crop
    assert (images.shape, images.dtype) == ((3, 3, 24, 32), torch.float32)
    assert (classes.shape, classes.dtype) == ((3, 24, 32), torch.int64)
