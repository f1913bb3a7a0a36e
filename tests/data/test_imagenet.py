import shutil
from importlib.resources import files

import pytest
from PIL import Image

from tapadl.data import imagenet as reading
from tapadl.data.class_names import wordnet_ids

NUMBERS = [str(number) for number in range(1000)]
READERS = {
    "imagenet": reading.imagenet,
    "imagenet-a": reading.imagenet_a,
    "imagenet-r": reading.imagenet_r,
    "imagenet-sketch": reading.imagenet_sketch,
    "imagenet-v2": reading.imagenet_v2,
}


def class_names(name):
    if name in ("imagenet-a", "imagenet-r"):
        return (files("timm.data") / "_info" / f"{name.replace('-', '_')}_synsets.txt").read_text().split()
    return NUMBERS if name == "imagenet-v2" else wordnet_ids()


@pytest.fixture(scope="module", params=READERS)
def published(request, tmp_path_factory):
    """A set as it is published, with one image of each class."""
    root = tmp_path_factory.mktemp(request.param)
    picture = root / "picture.JPEG"
    Image.new("L", (2, 2), 7).save(picture)
    for name in class_names(request.param):
        (root / request.param / name).mkdir(parents=True)
        shutil.copyfile(picture, root / request.param / name / "0.JPEG")
    (root / request.param / "README.txt").touch()
    return request.param, root / request.param


def test_published_sets_are_read_with_the_output_of_every_class(published):
    name, root = published
    read = READERS[name](root)
    assert len(read) == len(read.class_names) == len(class_names(name))
    for path, label in zip(read.paths, read.labels, strict=True):
        output = read.outputs[label] if read.outputs else label
        named = str(output) if name == "imagenet-v2" else wordnet_ids()[output]
        assert path == f"{named}/0.JPEG"
    assert (read.outputs is None) == (len(read.class_names) == 1000)
    assert read.image(3).getpixel((0, 0)) == (7, 7, 7)


def test_published_sets_are_not_taken_for_one_another(published):
    name, root = published
    for other, read in READERS.items():
        if other != name and {other, name} != {"imagenet", "imagenet-sketch"}:
            with pytest.raises(ValueError, match=r"expected the .*class folders"):
                read(root)


def test_more_images_than_were_published_are_refused(published, monkeypatch):
    name, root = published
    monkeypatch.setitem(reading.PUBLISHED_IMAGES, name, 199)
    with pytest.raises(
        ValueError, match=rf"expected at most the 199 images of {name} in .*, got \d+"
    ) as refusal:
        READERS[name](root)
    assert ("training set" in str(refusal.value)) == (name == "imagenet")


def test_image_folder_reads_what_sorts_as_text_and_refuses_v2(published):
    name, root = published
    if name == "imagenet-v2":
        with pytest.raises(ValueError, match="0 to 999 as in ImageNetV2; read it as imagenet-v2"):
            reading.image_folder(root)
    else:
        assert reading.image_folder(root) == READERS[name](root)


def touch(root, *names):
    for name in names:
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name / "0.png").touch()
    return root


def test_the_other_set_of_200_classes_is_recognised(tmp_path):
    touch(tmp_path, *class_names("imagenet-r"))
    with pytest.raises(ValueError, match=r"200 class folders of imagenet-a.*got those of imagenet-r"):
        reading.imagenet_a(tmp_path)


def test_part_of_the_classes_is_an_image_folder_with_outputs(tmp_path):
    ids = wordnet_ids()
    touch(tmp_path, ids[900], ids[20], ids[3])
    read = reading.image_folder(tmp_path)
    assert (read.class_names, read.outputs) == ((ids[3], ids[20], ids[900]), (3, 20, 900))
    for name, reader in READERS.items():
        with pytest.raises(ValueError, match=rf"got 3 \({ids[3]}, {ids[20]}, {ids[900]}\)") as refusal:
            reader(tmp_path)
        assert ("image folder" in str(refusal.value)) == (name != "imagenet-v2")


def test_other_names_say_nothing_of_outputs(tmp_path):
    assert reading.image_folder(touch(tmp_path, wordnet_ids()[5], "cat")).outputs is None


def test_folder_above_the_sets_is_refused(tmp_path):
    touch(tmp_path, "train/n01440764", "val/n01440764")
    with pytest.raises(ValueError, match=r"1000 class folders .*got 2 \(train, val\)"):
        reading.imagenet(tmp_path)


def test_flat_archive_of_validation_images_is_refused(tmp_path):
    (tmp_path / "ILSVRC2012_val_00000001.JPEG").touch()
    with pytest.raises(ValueError, match=r"expected only class folders.*ILSVRC2012_val_00000001\.JPEG"):
        reading.imagenet(tmp_path)


def test_stored_corruption_is_not_taken_for_clean_images(tmp_path):
    touch(tmp_path, *(f"fog/3/{wordnet_id}" for wordnet_id in wordnet_ids()))
    with pytest.raises(ValueError, match=r"expected clean images, got .*fog/3, one severity"):
        reading.imagenet(tmp_path / "fog" / "3")
