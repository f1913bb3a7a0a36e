import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from tapadl.data.imagenet import image_folder
from tapadl.data.labelled_files import LabelledFiles, class_folders, list_folder, read_classes


def write(root, names, value=0):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (3, 2), (value, value, value)).save(path)
    return root


@pytest.fixture
def photos(tmp_path):
    return write(tmp_path / "photos", ["dog/b.png", "dog/a.JPG", "cat/10.png", "cat/9.png", "Zebra/z.jpeg"])


def test_reading_is_that_of_torchvision_on_an_ordinary_folder(photos):
    ours, theirs = image_folder(photos), ImageFolder(photos)
    assert [(str(ours.root / path), label) for path, label in zip(ours.paths, ours.labels, strict=True)] == (
        theirs.samples
    )
    assert list(ours.class_names) == theirs.classes == ["Zebra", "cat", "dog"]
    for index, (image, _) in enumerate(theirs):
        assert ours.image(index).tobytes() == image.tobytes()


def test_files_of_many_endings_are_those_torchvision_takes(tmp_path):
    images = ("jpg", "jpeg", "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp", "JPEG", "TIF")
    (tmp_path / "only").mkdir()
    for ending in (*images, "gif", "txt", "jpg.part", "npy", "jpegs"):
        (tmp_path / "only" / f"image.{ending}").touch()
    theirs = [path for path, _ in ImageFolder(tmp_path).samples]
    assert [str(tmp_path / path) for path in image_folder(tmp_path).paths] == theirs
    assert len(theirs) == len(images)


def test_hidden_files_and_notes_are_no_images(photos):
    for name in ("README.txt", ".DS_Store", "dog/.DS_Store", "dog/._a.JPG", "cat/Thumbs.db"):
        (photos / name).touch()
    (photos / ".cache").mkdir()
    (photos / "dog" / ".thumbnails").mkdir()
    assert image_folder(photos).paths == ("Zebra/z.jpeg", "cat/10.png", "cat/9.png", "dog/a.JPG", "dog/b.png")


def test_links_to_folders_and_files_count_as_what_they_lead_to(photos, tmp_path):
    linked = tmp_path / "linked"
    (linked / "one").mkdir(parents=True)
    (linked / "two").symlink_to(photos / "cat")
    (linked / "one" / "a.png").symlink_to(photos / "dog" / "b.png")
    assert image_folder(linked).paths == ("one/a.png", "two/10.png", "two/9.png")


def test_home_folder_is_understood(photos, monkeypatch):
    monkeypatch.setenv("HOME", str(photos.parent))
    assert len(image_folder("~/photos")) == 5


def test_folder_one_level_too_high_is_refused(photos):
    with pytest.raises(ValueError, match=r"expected images in .*photos, got the folder 'Zebra'.*too high"):
        image_folder(photos.parent)


def test_folder_one_level_too_low_is_refused(photos):
    with pytest.raises(ValueError, match=r"expected only class folders.*'a\.JPG'.*give the folder above"):
        image_folder(photos / "dog")


def test_images_beside_the_classes_are_not_left_out_in_silence(photos):
    write(photos, ["lost.png"])
    with pytest.raises(ValueError, match=r"got the image 'lost\.png'; move it into its class"):
        image_folder(photos)


def test_empty_folder_and_empty_class_are_refused(tmp_path):
    with pytest.raises(ValueError, match="expected class folders with images"):
        image_folder(tmp_path)
    write(tmp_path, ["full/a.png"])
    (tmp_path / "hollow").mkdir()
    with pytest.raises(ValueError, match=r"class folder .*hollow, got an empty folder"):
        image_folder(tmp_path)
    (tmp_path / "hollow" / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"class folder .*hollow, got no images among 1 files"):
        image_folder(tmp_path)


def test_missing_folder_and_file_in_its_place_are_named(photos):
    with pytest.raises(FileNotFoundError, match=r"expected a folder at .*nowhere, but there is none"):
        image_folder(photos / "nowhere")
    with pytest.raises(NotADirectoryError, match=r"expected a folder at .*b\.png, got a file"):
        image_folder(photos / "dog" / "b.png")


def test_folder_that_may_not_be_read_is_named(photos, monkeypatch):
    scandir = os.scandir

    def refuse_dog(path):
        if Path(path).name == "dog":
            raise PermissionError
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse_dog)
    with pytest.raises(PermissionError, match=r"may be read at .*dog"):
        image_folder(photos)


def test_given_order_of_classes_is_kept(photos):
    files = read_classes(photos, ["dog", "cat"], (7, 3))
    assert files.paths == ("dog/a.JPG", "dog/b.png", "cat/10.png", "cat/9.png")
    assert (files.labels, files.class_names, files.outputs) == ((0, 0, 1, 1), ("dog", "cat"), (7, 3))
    assert class_folders(photos) == ("Zebra", "cat", "dog")
    assert list_folder(photos / "dog") == ([], ["a.JPG", "b.png"])


def test_subset_takes_as_many_of_each_class_and_keeps_everything_else(tmp_path):
    names = [f"{name}/{number}.png" for name in ("cat", "dog") for number in range(5)]
    files = read_classes(write(tmp_path, names), ["cat", "dog"], (3, 1))
    subset = files.subset(4)
    assert subset.labels == (0, 0, 1, 1)
    assert set(subset.paths) < set(files.paths)
    assert list(subset.paths) == sorted(subset.paths)
    assert (subset.root, subset.class_names, subset.outputs) == (files.root, files.class_names, files.outputs)
    assert subset.fingerprint != files.fingerprint
    assert files.subset(10) == files
    assert (subset.positions, files.positions) == (subset.subset_of, range(10))


def test_fingerprint_is_the_hash_that_is_documented(photos):
    files = image_folder(photos)
    sizes = [(photos / path).stat().st_size for path in files.paths]
    content = b"5\0" + "\0".join(files.paths).encode()
    content += np.array([0, 1, 1, 2, 2], "<i4").tobytes() + np.array(sizes, "<i8").tobytes()
    assert files.fingerprint == hashlib.sha256(content).hexdigest()


def test_fingerprint_tells_names_labels_and_sizes(photos):
    files = image_folder(photos)
    assert image_folder(photos).fingerprint == files.fingerprint
    assert read_classes(photos, ["cat", "dog", "Zebra"]).fingerprint != files.fingerprint
    same_paths = LabelledFiles(files.root, files.paths, (0, 1, 1, 2, 1), files.class_names)
    assert same_paths.fingerprint != files.fingerprint
    (photos / "cat" / "9.png").rename(photos / "cat" / "8.png")
    renamed = image_folder(photos).fingerprint
    assert renamed != files.fingerprint
    with open(photos / "cat" / "8.png", "ab") as image:
        image.write(b"more")
    assert image_folder(photos).fingerprint not in (renamed, files.fingerprint)


def test_fingerprint_tells_a_subset_from_the_same_files_apart_for_their_draws_differ(photos):
    files = image_folder(photos)
    part = replace(files, subset_of=tuple(range(3, 3 + len(files))))
    whole = replace(files, subset_of=tuple(range(len(files))))
    assert part.fingerprint != files.fingerprint == whole.fingerprint


def test_fingerprint_asks_for_few_sizes(tmp_path, monkeypatch):
    (tmp_path / "one").mkdir()
    for number in range(2001):
        (tmp_path / "one" / f"{number}.png").touch()
    files = image_folder(tmp_path)
    asked = []
    stat = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **kwargs: asked.append(path) or stat(path, **kwargs))
    assert len(files.fingerprint) == 64
    assert asked == [os.path.join(tmp_path, path) for path in files.paths[::3]]


def test_repr_of_many_files_is_short(photos):
    assert repr(image_folder(photos)) == f"LabelledFiles(root={photos!r})"


def test_a_class_that_is_a_link_to_nothing_is_told(photos):
    (photos / "zebra").symlink_to(photos / "gone")
    with pytest.raises(
        ValueError, match=r"expected class folders in .*, got the link 'zebra', which leads nowhere"
    ):
        image_folder(photos)
