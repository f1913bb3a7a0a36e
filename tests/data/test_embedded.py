import hashlib
import importlib.util
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from tapadl.data import embedded

ROOT = Path(__file__).parents[2]
FILE_SHA256 = "6e28b1a245431191b1939df229c2a5d07cc09f228fcaa8949975f0523a70e387"
DECODED_SHA256 = {
    "train": (
        "25f2e16a84fc059e5d830e2843f2902952e8893c75dfbbd96b3ee1042842ec9e",
        "34d2d5eb950cbc51afd4502bfb2ed097c1fb5230a6216b9df3a5b8a5707c18b9",
    ),
    "validation": (
        "4c5e87f68d7c2dbda6cce7577d277866e8087f738f0984b241ab3c01d4a49bd6",
        "3bf2e634da5d17cb1e5deb2c2dcfecdf0c7fbac22c0e2f70a629d0f40eb5be9e",
    ),
    "test": (
        "766a4be527de792b955e64ba65b1c122ec2c0570449e5a74f2b846049da21074",
        "daf8c79d534b57a40780b2cf38a1b7afc8e8bcd3c7af44f03650e548ac130fad",
    ),
}


def load_module(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fabricated = load_module("fabricated", Path(__file__).with_name("fabricated.py"))
script = load_module("build_embedded_data", ROOT / "scripts" / "build_embedded_data.py")


@pytest.fixture(scope="module")
def data():
    return embedded.load_embedded()


def sha256(tensor):
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()


def test_shipped_file_is_the_one_that_was_built():
    content = (files("tapadl.data") / "fashion_mnist_subset" / "subset.idx.xz").read_bytes()
    assert hashlib.sha256(content).hexdigest() == FILE_SHA256
    assert len(content) <= 12_000_000


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_decoded_arrays_are_the_ones_that_were_chosen(data, part):
    found = getattr(data, part)
    assert (sha256(found.images), sha256(found.labels)) == DECODED_SHA256[part]


def test_classes_are_balanced(data):
    assert data.train.labels.bincount().tolist() == [2000] * 10
    assert data.validation.labels.bincount().tolist() == [200] * 10
    assert data.test.labels.bincount().tolist() == [400] * 10


def test_licence_stands_beside_the_file():
    licence = (files("tapadl.data") / "fashion_mnist_subset" / "LICENSE").read_text()
    assert "Zalando SE" in licence
    assert "Permission is hereby granted" in licence


def test_building_twice_from_the_same_originals_gives_the_same_bytes(tmp_path, monkeypatch):
    for name, count in (("TRAIN", 20), ("VALIDATION", 3), ("TEST", 4)):
        monkeypatch.setattr(embedded, f"{name}_PER_CLASS", count)
    monkeypatch.setattr(embedded, "VALIDATION_FROM", 25)
    fabricated.write_originals(tmp_path, train_per_class=30, test_per_class=5)
    first = script.build(tmp_path)
    assert script.build(tmp_path) == first
    built = embedded.unpack(first, source="memory")
    assert (len(built.train), len(built.validation), len(built.test)) == (200, 30, 40)
    assert torch.equal(built.validation.images[:, 0, 0, 0].long(), built.validation.labels)


def test_packed_subset_unpacks_to_itself(data):
    small = type(data)(
        data.name, data.class_names, data.train.first(7), data.validation.first(5), data.test.first(3)
    )
    again = embedded.unpack(embedded.pack(small), source="memory")
    assert torch.equal(again.train.images, small.train.images)
    assert torch.equal(again.test.labels, small.test.labels)


@pytest.mark.parametrize(
    "damage", [lambda content: content[:1000], lambda content: content[:-1], lambda _: b""]
)
def test_damaged_file_is_named(damage):
    content = (files("tapadl.data") / "fashion_mnist_subset" / "subset.idx.xz").read_bytes()
    with pytest.raises(ValueError, match=r"expected .*here.xz.*"):
        embedded.unpack(damage(content), source="here.xz")


@pytest.fixture(scope="module")
def images():
    return embedded.EmbeddedImages.load()


def test_embedded_images_are_the_test_images_one_by_one(images, data):
    assert len(images) == 4000
    assert images.class_names == data.class_names
    assert images.outputs is None
    assert images.labels == tuple(data.test.labels.tolist())
    for index in (0, 1234, 3999):
        image = images.image(index)
        assert image.mode == "L"
        assert image.tobytes() == data.test.images[index].numpy().tobytes()


def test_embedded_subset_is_balanced_and_keeps_images_with_their_labels(images):
    subset = images.subset(50)
    assert [subset.labels.count(label) for label in range(10)] == [5] * 10
    whole = {(images.image(index).tobytes(), images.labels[index]) for index in range(len(images))}
    assert {(subset.image(index).tobytes(), subset.labels[index]) for index in range(50)} <= whole
    with pytest.raises(ValueError, match="multiple of 10 images"):
        images.subset(55)


def test_embedded_fingerprint_follows_from_pixels_and_labels(images):
    again = embedded.EmbeddedImages(images.pixels.clone(), images.labels, images.class_names)
    assert again.fingerprint == images.fingerprint
    changed = images.pixels.clone()
    changed[7, 0, 3, 3] ^= 1
    others = [
        embedded.EmbeddedImages(changed, images.labels, images.class_names),
        embedded.EmbeddedImages(images.pixels, images.labels[::-1], images.class_names),
        images.subset(3990),
    ]
    assert len({other.fingerprint for other in (images, *others)}) == 4
