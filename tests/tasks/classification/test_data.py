import functools
import itertools

import pytest
import torch
import torch.distributed as dist
from PIL import Image

from tapadl.data.embedded import EmbeddedImages
from tapadl.evaluation.preprocessing import Preprocessing
from tapadl.evaluation.processes import find_device, spare_cores
from tapadl.tasks.batches import batches, workers_of
from tapadl.tasks.classification.data import make_training_set, open_data
from tapadl.training.settings import (
    AugmentationSettings,
    DataSettings,
    ModelSettings,
    Settings,
    TrainingSettings,
)
from tapadl.training.step_plan import StepPlan

PREPROCESSING = Preprocessing((16, 24), mean=(0.3,), std=(0.4,))


@functools.cache
def embedded():
    return EmbeddedImages.load()


@pytest.fixture
def alone():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def folder(root, names, count=2):
    for name in names:
        (root / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (8, 8), (40 * number, 0, 0)).save(root / name / f"{number}.png")
    return str(root)


def settings(workers=0, accumulation=2):
    return Settings(
        ModelSettings("vit"),
        DataSettings("embedded", workers=workers),
        augmentation=AugmentationSettings(auto_augment="rand-m5", reprob=0.5, color_jitter=None),
        training=TrainingSettings(epochs=6, batch_size=8, accumulation=accumulation, seed=5),
    )


def test_the_classes_of_both_parts_are_compared_and_counted(tmp_path):
    train, val = folder(tmp_path / "train", "abc"), folder(tmp_path / "val", "abc", 1)
    data = open_data(DataSettings(train, val))
    assert (len(data.train), len(data.val), data.num_classes) == (6, 3, 3)
    assert open_data(DataSettings(train, num_classes=9)).num_classes == 9
    assert open_data(DataSettings(train)).val is None
    with pytest.raises(ValueError, match=r"data\.num_classes of at least 3.*got 2"):
        open_data(DataSettings(train, val, num_classes=2))
    with pytest.raises(ValueError, match="expected the 3 classes"):
        open_data(DataSettings(train, folder(tmp_path / "other", "abd")))


def test_further_folders_stand_behind_the_training_images(tmp_path):
    train, more = folder(tmp_path / "train", "ab"), folder(tmp_path / "more", "ab", 5)
    assert len(open_data(DataSettings(train, extra_train=(more,))).train) == 14


def test_batches_are_the_same_whatever_reads_them_and_wherever_they_begin(alone):
    images = embedded().subset(20)
    plan = StepPlan.of(settings(), len(images))
    found = {}
    for workers in (0, 2):
        training_set = make_training_set(images, settings(workers), PREPROCESSING)
        found[workers] = list(batches(training_set, settings(workers), plan, torch.device("cpu"), 0))
    assert len(found[0]) == plan.total_steps == 12
    for step, other in zip(found[0], found[2], strict=True):
        assert len(step) == 2
        for (images_, labels), (images_2, labels_2) in zip(step, other, strict=True):
            assert images_.shape == (4, 1, 16, 24)
            assert torch.equal(images_, images_2)
            assert torch.equal(labels, labels_2)
    training_set = make_training_set(images, settings(), PREPROCESSING)
    later = list(batches(training_set, settings(), plan, torch.device("cpu"), 7))
    assert len(later) == 5
    assert torch.equal(later[0][1][0], found[0][7][1][0])
    assert not torch.equal(found[0][0][0][0], found[0][2][0][0])


def test_an_epoch_shows_every_image_at_most_once(alone):
    images = embedded().subset(20)
    plan = StepPlan.of(settings(), len(images))
    training_set = make_training_set(images, settings(), PREPROCESSING)
    steps = batches(training_set, settings(), plan, torch.device("cpu"), 0)
    epoch = list(itertools.islice(steps, plan.steps_per_epoch))
    shown = torch.cat([labels for step in epoch for _, labels in step])
    assert len(shown) == 16
    assert torch.bincount(shown).max() <= 2


def test_workers_are_the_spare_cores_of_a_process(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(16)))
    assert workers_of(DataSettings("embedded")) == 15
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert workers_of(DataSettings("embedded")) == 3
    assert spare_cores() == 3
    assert workers_of(DataSettings("embedded", workers=0)) == 0


def test_a_process_that_does_not_know_its_place_on_the_machine_is_told(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(ValueError, match=r"expected LOCAL_RANK, .* name it with --device cuda:N"):
        find_device("cuda")
