import io
import pickle
import tarfile
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import timm.data.readers.reader_factory
from PIL import Image

from tapadl.data import open_training_data
from tapadl.data.embedded import EmbeddedImages, load_embedded
from tapadl.data.labelled_files import LabelledFiles
from tapadl.data.open_training_data import check_same_classes, open_images, open_training_images


@pytest.fixture
def folder(tmp_path, write_class_folders):
    return write_class_folders(tmp_path / "train")


def pack(folder, path):
    with tarfile.open(path, "w") as tar:
        tar.add(folder, arcname=".")
    return path


def test_a_folder_of_class_folders_is_opened(folder):
    images = open_images(str(folder))
    assert isinstance(images, LabelledFiles)
    assert images.class_names == ("cat", "dog")


def test_a_tar_file_and_a_folder_of_them_hold_the_same_images(folder, tmp_path):
    images = open_images(str(folder))
    (tmp_path / "tars").mkdir()
    path = pack(folder, tmp_path / "tars" / "train.tar")
    for spec in (path, path.parent, f"wds/{path}"):
        packed = open_images(str(spec))
        assert packed.class_names == images.class_names
        read = sorted((packed.labels[index], packed.image(index).tobytes()) for index in range(8))
        assert read == sorted((images.labels[index], images.image(index).tobytes()) for index in range(8))


def test_the_embedded_images_have_a_training_and_a_validation_part():
    data = load_embedded()
    for split, part in (("train", data.train), ("validation", data.validation)):
        images = open_images("embedded", split=split)
        assert isinstance(images, EmbeddedImages)
        assert images.labels == tuple(part.labels.tolist())
        assert np.array_equal(np.array(images.image(7)), part.images[7, 0])


@pytest.mark.parametrize("spec", ["hfids/imagenet", "tfds/imagenet2012", "torch/cifar10"])
def test_streams_are_refused(spec):
    with pytest.raises(ValueError, match=rf"read in any order .* got '{spec}'"):
        open_images(spec)


def test_a_missing_folder_and_an_empty_class_are_refused(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected a folder at .*nowhere, but there is none"):
        open_images(str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"expected tar files at .*nowhere\.tar"):
        open_images(str(tmp_path / "nowhere.tar"))
    (folder / "bird").mkdir()
    with pytest.raises(ValueError, match=r"class folder .*bird, got an empty folder"):
        open_images(str(folder))


def test_further_folders_stand_behind_the_first(folder, tmp_path, write_class_folders):
    more = [write_class_folders(tmp_path / f"more{number}", per_class=number) for number in (1, 2)]
    joined = open_training_images(str(folder), [str(path) for path in more])
    parts = [open_images(str(path)) for path in (folder, *more)]
    expected = [(part, index) for part in parts for index in range(len(part))]
    assert len(joined) == len(expected) == 14
    assert joined.class_names == ("cat", "dog")
    for index, (part, place) in enumerate(expected):
        assert joined.labels[index] == part.labels[place]
        assert joined.location(index) == part.location(place)
        assert joined.image(index).tobytes() == part.image(place).tobytes()
    assert joined.fingerprint == pickle.loads(pickle.dumps(joined)).fingerprint
    assert joined.fingerprint != open_training_images(str(folder), [str(more[0])]).fingerprint


def test_without_further_folders_the_images_are_the_first(folder):
    assert open_training_images(str(folder)) == open_images(str(folder))


def test_further_folders_of_other_classes_are_refused(folder, tmp_path, write_class_folders):
    other = write_class_folders(tmp_path / "other", classes=("cat", "fish", "gnu"))
    with pytest.raises(
        ValueError,
        match=r"2 classes of .*train in .*other too, got 3: 1 missing \(such as 'dog'\), 2 unknown",
    ):
        open_training_images(str(folder), [str(other)])


@dataclass
class Named:
    class_names: tuple[str, ...]


NUMBERS = tuple(str(number) for number in range(12))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (("a", "b"), ("a", "b")),
        (NUMBERS, NUMBERS),
        (NUMBERS, NUMBERS[:9]),  # the last classes have no image there
        (("a", "b"), ("0", "1")),  # a folder, and shards that know numbers alone
        (("0", "1"), ("a", "b")),
    ],
)
def test_the_same_classes_pass(ours, theirs):
    check_same_classes(Named(ours), Named(theirs), names=("train", "val"))


@pytest.mark.parametrize(
    ("ours", "theirs", "sentence"),
    [
        (("a", "b"), ("a",), r"2 classes of train in val too, got 1: 1 missing \(such as 'b'\)"),
        (("b", "a"), ("a", "b"), "the same names in another order"),
        (NUMBERS, tuple(sorted(NUMBERS)), "the same names in another order"),
        (tuple(sorted(NUMBERS)), NUMBERS, "the same names in another order"),
        (("a", "b"), ("0", "1", "2"), "got 3: 2 missing"),
        (("0", "1", "2"), ("a", "b"), "got 2: 3 missing"),
        (NUMBERS[:3], NUMBERS[:4], r"got 4: 1 unknown \(such as '3'\)"),
    ],
)
def test_other_classes_are_refused_in_a_sentence(ours, theirs, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_same_classes(Named(ours), Named(theirs), names=("train", "val"))


@dataclass
class Reader:
    """What `open_images` takes of timm's reader of Hugging Face data sets."""

    labels: list[Any]
    class_to_idx: dict[str, int] = field(default_factory=lambda: {"cat": 0, "dog": 1, "emu": 2})
    label_key = "label"

    @property
    def dataset(self):
        return {"label": self.labels}

    def __getitem__(self, index):
        if index == 3:
            raise KeyError("no such row")
        content = io.BytesIO()
        Image.new("L", (4, 4), index * 50).save(content, "PNG")
        return io.BytesIO(content.getvalue()), self.labels[index]


@pytest.fixture
def hub(monkeypatch):
    """Data sets of a hub in memory; and what was asked for."""
    asked = []
    readers = {"cats": Reader([1, 0, 1, 0]), "numbers": Reader([4, 0], {}), "test": Reader([-1, -1])}

    def create_reader(name, *, split):
        asked.append((name, split))
        if name.removeprefix("hfds/") not in readers:
            raise FileNotFoundError(f"Dataset {name} not found")
        return readers[name.removeprefix("hfds/")]

    monkeypatch.setattr(timm.data.readers.reader_factory, "create_reader", create_reader)
    monkeypatch.setattr(open_training_data.importlib.util, "find_spec", lambda name: object())
    return asked


def test_a_hugging_face_data_set_is_read_by_row(hub):
    images = open_images("hfds/cats")
    assert images.class_names == ("cat", "dog", "emu")
    assert images.labels == (1, 0, 1, 0)
    assert images.image(2).getpixel((0, 0)) == (100, 100, 100)
    assert images.location(2) == "hfds/cats, split 'train', row 2"
    with pytest.raises(OSError, match="hfds/cats, split 'train', row 3, got an error: 'no such row'"):
        images.image(3)


def test_splits_are_chosen_by_part_or_by_name(hub):
    open_images("hfds/cats", split="validation")
    open_images("hfds/cats#train[:90%]", split="validation")
    assert hub == [("hfds/cats", "validation"), ("hfds/cats", "train[:90%]")]
    first, second = open_images("hfds/cats"), open_images("hfds/cats#test")
    assert first.fingerprint != second.fingerprint


def test_classes_without_names_are_numbered(hub):
    assert open_images("hfds/numbers").class_names == ("0", "1", "2", "3", "4")


def test_hugging_face_data_sets_that_cannot_be_used_are_refused(hub, monkeypatch):
    with pytest.raises(
        OSError, match="expected images at hfds/dogs, split 'train', got from datasets: Dataset"
    ):
        open_images("hfds/dogs")
    with pytest.raises(
        ValueError, match=r"expected a label from 0 on .* hfds/test, split 'train', got \(-1, -1\)"
    ):
        open_images("hfds/test")
    monkeypatch.setattr(open_training_data.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs the package datasets: pip install datasets"):
        open_images("hfds/cats")


def test_a_local_folder_of_parquet_is_read_by_the_real_library(tmp_path, folder):
    datasets = pytest.importorskip("datasets")
    made = datasets.load_dataset(
        "imagefolder", data_dir=str(folder), split="train", cache_dir=str(tmp_path / "c")
    )
    (tmp_path / "pq").mkdir()
    made.to_parquet(str(tmp_path / "pq" / "train-0.parquet"))
    images = open_images(f"hfds/{tmp_path / 'pq'}")
    files = open_images(str(folder))
    assert images.class_names == ("cat", "dog")
    copy = pickle.loads(pickle.dumps(images))
    assert sorted((copy.labels[i], copy.image(i).tobytes()) for i in range(8)) == sorted(
        (files.labels[i], files.image(i).tobytes()) for i in range(8)
    )
    with pytest.raises(ValueError, match=r"expected images at hfds/.*pq, split 'nope'"):
        open_images(f"hfds/{tmp_path / 'pq'}#nope")
