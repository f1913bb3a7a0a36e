"""Images and masks of one's own."""

import json
import struct
import zlib

import numpy as np
import pytest

from tapadl.data.segmentation import open_segmentation


@pytest.fixture
def root(tmp_path, write):
    for split in ("train", "val"):
        for name in ("b", "a/c"):
            write(tmp_path / f"{split}/images/{name}.jpg", np.zeros((2, 3, 3)))
            write(tmp_path / f"{split}/masks/{name}.png", [[0, 1, 255]] * 2)
    (tmp_path / "classes.json").write_text('{"class_names": ["road", "sky"]}')
    return tmp_path


def test_masks_lie_like_images(root):
    train = open_segmentation("folder", root, "train")
    assert train.images == ("train/images/a/c.jpg", "train/images/b.jpg")
    assert train.masks == ("train/masks/a/c.png", "train/masks/b.png")
    assert train.mask(1).tolist() == [[0, 1, 255]] * 2
    assert train.scheme.class_names == ("road", "sky")


def write_png_of_few_bits(path, numbers, bits):
    """A gray PNG whose pixels have 2 or 4 bits, which Pillow does not write."""
    height, width = len(numbers), len(numbers[0])

    def chunk(kind, content):
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    lines = b""
    for line in numbers:
        packed = "".join(f"{number:0{bits}b}" for number in line)
        packed += "0" * (-len(packed) % 8)
        lines += b"\0" + int(packed, 2).to_bytes(len(packed) // 8, "big")
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


@pytest.mark.parametrize("bits", [2, 4])
def test_numbers_of_few_bits_are_read_as_they_are(root, bits):
    (root / "classes.json").write_text('{"class_names": ["a", "b", "c", "d"]}')
    write_png_of_few_bits(root / "train/masks/b.png", [[0, 1, 3], [2, 3, 0]], bits)
    assert open_segmentation("folder", root, "train").mask(1).tolist() == [[0, 1, 3], [2, 3, 0]]


def test_empty_folder_of_images_is_told(root):
    for path in (root / "val/images").rglob("*.jpg"):
        path.unlink()
    with pytest.raises(ValueError, match=r"expected images in .*val/images, got none"):
        open_segmentation("folder", root, "val")


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ('{"class_names": ["a", "a"]}', "a name of its own for each class"),
        ('{"class_names": ["a", "b\\nc"]}', "in one line"),
        ('{"class_names": ["a", " "]}', "a name of its own for each class"),
        ('{"class_names": ["a"], "colours": [[0.5, 1, 1]]}', "parts of colours that are no whole numbers"),
        ('{"class_names": ["a"], "colours": [[1e999, 1, 1]]}', "parts of colours that are no whole numbers"),
        ("[" * 100_000, "expected JSON in"),
    ],
)
def test_damaged_names_and_colours_are_told(root, told, message):
    (root / "classes.json").write_text(told)
    with pytest.raises(ValueError, match=message):
        open_segmentation("folder", root, "train")


def test_numbers_and_colours_can_be_told(root):
    told = {"class_names": ["x", "y"], "values": [1, 0], "ignored": [255], "colours": [[9, 8, 7], [1, 2, 3]]}
    (root / "classes.json").write_text(json.dumps(told))
    val = open_segmentation("folder", root, "val")
    assert val.mask(0).tolist() == [[1, 0, 255]] * 2
    assert val.scheme.colours == ((9, 8, 7), (1, 2, 3))


def test_without_masks_there_is_nothing_but_to_predict(root, write):
    write(root / "test/images/z.png", np.zeros((2, 3, 3)))
    assert not open_segmentation("folder", root, "test").labelled


def test_images_without_masks_and_masks_without_images_are_named(root):
    (root / "val/images/b.jpg").unlink()
    with pytest.raises(ValueError, match=r"1 without, such as val/masks/b\.png"):
        open_segmentation("folder", root, "val")
    (root / "train/masks/b.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 without, such as train/images/b\.jpg"):
        open_segmentation("folder", root, "train")


def test_two_images_of_one_mask_are_refused(root, write):
    write(root / "val/images/b.png", np.zeros((2, 3, 3)))
    with pytest.raises(ValueError, match=r"b\.jpg and val/images/b\.png for val/masks/b\.png"):
        open_segmentation("folder", root, "val")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "expected JSON"),
        ('["road"]', "class_names"),
        ('{"class_names": "road"}', "no list of texts"),
        ('{"class_names": ["a"], "colors": []}', "no key but"),
        ('{"class_names": ["a"], "values": [1.5]}', "no whole numbers"),
        ('{"class_names": ["a"], "values": [300]}', "from 0 to 255"),
        ('{"class_names": ["a"], "colours": [[1, 2]]}', "not enough values"),
        ('{"class_names": []}', "expected 1 to 255 classes"),
    ],
)
def test_a_damaged_file_of_classes_is_named(root, content, message):
    (root / "classes.json").write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        open_segmentation("folder", root, "val")
    assert "classes.json" in str(caught.value)


def test_a_missing_file_of_classes_is_named(root):
    (root / "classes.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"names of the classes in .*classes\.json"):
        open_segmentation("folder", root, "val")
