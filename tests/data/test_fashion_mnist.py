import gzip
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from tapadl.data.fashion_mnist import (
    TEST_LABELS,
    TRAINING_IMAGES,
    LabelledImages,
    load_full,
    take_per_class,
)
from tapadl.data.idx import format_idx
from tapadl.data.open_training_data import open_images

spec = importlib.util.spec_from_file_location("fabricated", Path(__file__).with_name("fabricated.py"))
fabricated = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fabricated)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    fabricated.write_originals(folder, train_per_class=6000, test_per_class=1000)
    return folder


def places(part):
    return set((part.images[:, 0, 0, 1].long() * 256 + part.images[:, 0, 0, 2].long()).tolist())


def test_full_set_is_split_by_rank_within_the_class(originals):
    data = load_full(originals)
    assert (len(data.train), len(data.validation), len(data.test)) == (55_000, 5_000, 10_000)
    assert data.validation.labels.bincount().tolist() == [500] * 10
    assert not places(data.train) & places(data.validation)
    assert torch.equal(data.train.images[:, 0, 0, 0].long(), data.train.labels)


def test_training_reads_the_original_files(originals):
    data = load_full(originals)
    for split, part in (("train", data.train), ("validation", data.validation)):
        images = open_images(str(originals), split=split)
        assert (len(images), images.class_names) == (len(part), data.class_names)
        assert images.labels[-3:] == tuple(part.labels[-3:].tolist())
        assert torch.equal(torch.from_numpy(np.array(images.image(7))), part.images[7, 0])


def test_files_are_found_where_torchvision_puts_them(originals, tmp_path):
    below = tmp_path / "FashionMNIST" / "raw"
    below.parent.mkdir()
    below.symlink_to(originals)
    assert len(load_full(tmp_path).train) == 55_000


def test_torchvision_downloads_only_when_asked(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "torchvision.datasets.FashionMNIST", lambda root, download: asked.append((root, download))
    )
    with pytest.raises(FileNotFoundError):
        load_full(tmp_path)
    assert asked == []
    with pytest.raises(FileNotFoundError):
        load_full(tmp_path, download=True)
    assert asked == [(tmp_path, True)]


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_full(tmp_path / "nowhere")


def test_too_few_images_are_an_error(tmp_path):
    fabricated.write_originals(tmp_path, train_per_class=2, test_per_class=2)
    with pytest.raises(ValueError, match="expected the 60,000 training images"):
        load_full(tmp_path)


def test_labels_that_do_not_fit_the_images_are_an_error(tmp_path):
    fabricated.write_originals(tmp_path, train_per_class=2, test_per_class=2)
    (tmp_path / TEST_LABELS).write_bytes(gzip.compress(format_idx(torch.zeros(3, dtype=torch.uint8))))
    with pytest.raises(ValueError, match=r"expected 20 labels .*t10k-labels"):
        load_full(tmp_path)


def test_images_of_another_size_are_an_error(tmp_path):
    fabricated.write_originals(tmp_path, train_per_class=2, test_per_class=2)
    (tmp_path / TRAINING_IMAGES).write_bytes(
        gzip.compress(format_idx(torch.zeros(20, 8, 8, dtype=torch.uint8)))
    )
    with pytest.raises(ValueError, match=r"28 x 28 pixels in .*train-images"):
        load_full(tmp_path)


def test_class_with_too_few_images_is_an_error():
    data = LabelledImages(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 0, 1]))
    with pytest.raises(ValueError, match="at least 2 images of class 1, got 1"):
        take_per_class(data, 0, 2)


@pytest.mark.parametrize(
    ("images", "labels", "problem"),
    [
        (torch.zeros(2, 2, 2, dtype=torch.uint8), torch.zeros(2), "N, C, H, W"),
        (torch.zeros(2, 1, 2, 2), torch.zeros(2), "uint8"),
        (torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.zeros(3), "one label for each of 2 images"),
    ],
)
def test_images_and_labels_that_do_not_fit_are_refused(images, labels, problem):
    with pytest.raises(ValueError, match=problem):
        LabelledImages(images, labels)
