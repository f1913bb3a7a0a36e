import functools

import pytest
import torch
import torch.distributed as dist
from torch import nn

from tapadl.corruptions import corrupt
from tapadl.data.embedded import EmbeddedImages
from tapadl.evaluation.preprocessing import Preprocessing
from tapadl.tasks.classification.scores import Scores
from tapadl.training.settings import EvaluationSettings

PREPROCESSING = Preprocessing((28, 28), mean=(0.3,), std=(0.4,))


@functools.cache
def embedded():
    return EmbeddedImages.load()


@pytest.fixture(autouse=True)
def alone():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


def scores(shown, batch_size=32, workers=0, on_shown=None, **settings):
    return Scores(
        shown,
        EvaluationSettings(**settings),
        PREPROCESSING,
        batch_size=batch_size,
        num_workers=workers,
        device=torch.device("cpu"),
        on_shown=on_shown,
    )


def share_by_hand(model, images, corruption=None, severity=None):
    pixels = images.pixels / 255
    if corruption is not None:
        indices = torch.tensor(list(images.positions))
        pixels = corrupt(pixels, corruption, severity, seed=0, indices=indices).mul(255).round() / 255
    answers = model((pixels - 0.3) / 0.4).argmax(1)
    return (answers == torch.tensor(images.labels)).double().mean().item()


def test_shares_are_those_of_a_loop_by_hand(model):
    images = embedded().subset(100)
    found = scores(images, corruptions=("fog", "contrast"), severities=(2, 4), images=33)(model)
    sample = images.subset(30)
    by_hand = {
        name: sum(share_by_hand(model, sample, name, severity) for severity in (2, 4)) / 2
        for name in ("fog", "contrast")
    }
    assert list(found) == ["top1", "corrupted_top1", "fog_top1", "contrast_top1"]
    assert found["top1"] == pytest.approx(share_by_hand(model, images))
    assert found["fog_top1"] == pytest.approx(by_hand["fog"])
    assert found["corrupted_top1"] == pytest.approx(sum(by_hand.values()) / 2)


def test_batches_and_workers_change_nothing(model):
    images = embedded().subset(50)
    expected = scores(images, corruptions=("gaussian_noise",), images=20)(model)
    assert (
        scores(images, batch_size=7, workers=2, corruptions=("gaussian_noise",), images=20)(model) == expected
    )


def test_a_sample_is_as_large_as_the_smallest_class_allows(model):
    images = embedded()
    few = [place for place, label in enumerate(images.labels) if label != 3][:900] + [
        place for place, label in enumerate(images.labels) if label == 3
    ][:2]
    labels = tuple(images.labels[place] for place in few)
    uneven = EmbeddedImages(images.pixels[few], labels, images.class_names)
    (_, corrupted) = scores(uneven, corruptions=("fog",), images=100)._parts()
    assert len(corrupted.images) == 20
    (_, corrupted) = scores(uneven, corruptions=("fog",), images=3)._parts()
    assert len(corrupted.images) == 10


def test_without_corruptions_there_is_one_number(model):
    images = embedded().subset(20)
    assert list(scores(images)(model)) == ["top1"]


def test_it_says_how_far_it_is(model):
    told = []
    images = embedded().subset(40)
    evaluate = scores(images, on_shown=lambda *numbers: told.append(numbers), corruptions=("fog",), images=10)
    evaluate(model)
    assert told == [(32, 50), (40, 50), (50, 50)]


@pytest.mark.parametrize("count", [65, 96, 33])
def test_every_process_shows_as_many_batches_and_all_images_count_once(model, count, monkeypatch):
    images = embedded()
    images = EmbeddedImages(images.pixels[:count], images.labels[:count], images.class_names)
    evaluate = scores(images, corruptions=("contrast",), severities=(1,))
    parts = evaluate._parts()
    works, counted = [], []
    for rank in range(3):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        monkeypatch.setattr(dist, "get_world_size", lambda: 3)
        work, own = evaluate._share_of(parts)
        works.append([unit.part for unit in work])
        counted += sorted(own, key=lambda unit: (unit.part, unit.start))
    assert works[0] == works[1] == works[2]
    assert len(counted) == len(set(counted))
    assert sum(unit.stop - unit.start for unit in counted) == 2 * count


def test_where_a_class_has_no_images_all_are_corrupted(model):
    images = embedded()
    some = [place for place, label in enumerate(images.labels) if label != 3][:50]
    gap = EmbeddedImages(
        images.pixels[some], tuple(images.labels[place] for place in some), images.class_names
    )
    (_, corrupted) = scores(gap, corruptions=("fog",), images=10)._parts()
    assert corrupted.images is gap
