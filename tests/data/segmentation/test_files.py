"""Pairs of images and label files."""

import numpy as np
import pytest

from tapadl.data.segmentation import LabelScheme, SegmentationFiles

SCHEME = LabelScheme(("a", "b"), (3, 4), (0,), ((1, 1, 1), (2, 2, 2)))


@pytest.fixture
def files(tmp_path, write):
    for number in range(6):
        write(tmp_path / f"{number}.png", np.full((2, 3, 3), number))
        write(tmp_path / f"{number}_mask.png", [[3, 4, 0], [3, 3, 3]])
    names = [str(number) for number in range(6)]
    return SegmentationFiles(
        tmp_path, tuple(f"{name}.png" for name in names), tuple(f"{name}_mask.png" for name in names), SCHEME
    )


def test_a_pair_is_an_image_and_the_class_of_every_pixel(files):
    image, mask = files.pair(2)
    assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (3, 2), (2, 2, 2))
    assert mask.tolist() == [[0, 1, 255], [0, 0, 0]]


def test_sizes_that_differ_are_an_error_that_names_both_files(files, write):
    write(files.root / "1_mask.png", [[3, 4]])
    with pytest.raises(ValueError, match=r"1\.png, 2 x 3 \(height x width\), got 1 x 2 in 1_mask\.png"):
        files.pair(1)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [(np.zeros((2, 3, 3)), "a picture of mode RGB"), ([[9, 3, 3], [3, 3, 3]], "got 9 in .*1_mask.png")],
)
def test_a_file_that_holds_no_labels_is_named(files, write, pixels, message):
    write(files.root / "1_mask.png", pixels)
    with pytest.raises(ValueError, match=message):
        files.mask(1)


def test_instance_numbers_of_16_bits_are_no_labels(files):
    from PIL import Image

    Image.fromarray(np.full((2, 3), 26001, np.uint16)).save(files.root / "1_mask.png")
    with pytest.raises(ValueError, match=r"one number of 8 bits a pixel in .*1_mask\.png"):
        files.mask(1)


def test_a_label_file_cut_short_is_an_error_that_names_it(files):
    path = files.root / "1_mask.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(OSError, match=r"1_mask\.png"):
        files.mask(1)


def test_a_smaller_subset_lies_inside_a_larger_one_and_keeps_positions(files):
    large, small = files.subset(4), files.subset(2)
    assert set(small.positions) < set(large.positions) < set(range(6))
    for place, position in enumerate(small.positions):
        assert small.location(place) == files.location(position)
        assert small.masks[place] == files.masks[position]
    assert small.subset(1).positions[0] in small.positions
    with pytest.raises(ValueError, match="a subset of 1 to 6 images, got 7"):
        files.subset(7)


def test_other_masks_another_meaning_and_fewer_images_are_other_data(files, write):
    from dataclasses import replace

    other = LabelScheme(("a", "b"), (4, 3), (0,), ((1, 1, 1), (2, 2, 2)))
    fingerprints = {files.fingerprint, files.subset(5).fingerprint, replace(files, scheme=other).fingerprint}
    write(files.root / "5_mask.png", np.random.default_rng(0).integers(3, 5, (2, 300)))
    fingerprints.add(replace(files).fingerprint)
    assert len(fingerprints) == 4
