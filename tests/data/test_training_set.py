import pickle
import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tapadl.data.embedded import EmbeddedImages
from tapadl.data.imagenet import image_folder
from tapadl.data.training_set import LONGEST_GAP, TrainingSet
from tapadl.training.transforms import training_transform

PLACES = [(epoch, index) for epoch in (0, 1) for index in range(8)]


def everything_random():
    return training_transform(
        image_size=(16, 20),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        color_jitter=0.4,
        auto_augment="rand-m9-n3-mstd0.5-inc1",
        reprob=0.5,
        interpolation="random",
    )


def draw_from_all_three(image):
    return torch.tensor([random.random(), np.random.rand(), torch.rand(1).item()])  # noqa: NPY002


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_class_folders):
    return write_class_folders(tmp_path_factory.mktemp("images") / "train")


@pytest.fixture(scope="module")
def training_set(folder):
    return TrainingSet(image_folder(folder), everything_random(), seed=3)


@pytest.fixture(scope="module")
def items(training_set):
    return [training_set[place] for place in PLACES]


def loaded(training_set, places, **options):
    loader = DataLoader(training_set, batch_sampler=[places[:5], places[5:]], **options)
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


# newer Pythons warn of any fork in a process with threads, and torch of more workers than cores
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]


@pytest.mark.parametrize(("workers", "prefetch"), [(0, None), (1, 1), (3, 4)])
def test_items_are_the_same_bits_with_any_workers(training_set, items, workers, prefetch):
    method = "fork" if workers else None
    images, labels = loaded(
        training_set, PLACES, num_workers=workers, multiprocessing_context=method, prefetch_factor=prefetch
    )
    assert torch.equal(images, torch.stack([image for image, _ in items]))
    assert labels.tolist() == [label for _, label in items]


def test_items_are_the_same_bits_in_another_order(training_set, items):
    torch.manual_seed(11)
    random.seed(11)
    backwards = [training_set[place] for place in reversed(PLACES)]
    assert all(torch.equal(one[0], two[0]) for one, two in zip(items, reversed(backwards), strict=True))


def test_a_batch_equals_its_items(training_set, items):
    batch = training_set.__getitems__(PLACES[3:9])
    assert all(torch.equal(one[0], two[0]) for one, two in zip(batch, items[3:9], strict=True))


def test_every_epoch_index_and_seed_draws_from_all_three_generators_anew(folder):
    images = image_folder(folder)
    draws = {
        (seed, *place): TrainingSet(images, draw_from_all_three, seed=seed)[place][0].tolist()
        for seed in (0, 1)
        for place in PLACES
    }
    for generator in range(3):
        assert len({drawn[generator] for drawn in draws.values()}) == len(draws)


def test_the_generators_of_the_caller_do_not_move(training_set):
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    training_set[0, 0]
    loaded(training_set, PLACES, generator=torch.Generator())
    assert random.getstate() == before[0]
    assert np.array_equal(np.random.get_state()[1], before[1][1])  # noqa: NPY002
    assert np.random.get_state()[2:] == before[1][2:]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])


def test_the_same_place_in_another_epoch_looks_different(items):
    first, second = items[:8], items[8:]
    assert not any(torch.equal(one[0], two[0]) for one, two in zip(first, second, strict=True))


def test_labels_are_those_of_the_folders(training_set, items):
    assert [label for _, label in items] == [0] * 4 + [1] * 4 + [0] * 4 + [1] * 4
    assert len(training_set) == 8


def test_a_pickled_set_gives_the_same_items(training_set, items):
    assert torch.equal(pickle.loads(pickle.dumps(training_set))[1, 4][0], items[12][0])


def test_gray_images_reach_a_model_of_one_channel():
    transform = training_transform(image_size=(28, 28), mean=(0.3,), std=(0.3,), auto_augment="rand-m9-inc1")
    images = EmbeddedImages(torch.full((2, 1, 28, 28), 90, dtype=torch.uint8), (1, 0), ("a", "b"))
    image, label = TrainingSet(images, transform, seed=0)[0, 1]
    assert image.shape == (1, 28, 28)
    assert label == 0


@pytest.fixture
def damaged(tmp_path, write_class_folders):
    folder = write_class_folders(tmp_path / "damaged")
    (folder / "cat" / "1.png").write_bytes((folder / "cat" / "1.png").read_bytes()[:300])
    (folder / "cat" / "2.png").write_bytes(b"no image")
    (folder / "dog" / "3.png").write_bytes(b"")
    return folder


def test_an_unreadable_image_stops_with_its_path(damaged):
    training_set = TrainingSet(image_folder(damaged), everything_random(), seed=0)
    state = torch.get_rng_state()
    with pytest.raises(OSError, match=r"damaged.cat.2\.png, but it does not decode"):
        training_set[0, 2]
    assert torch.equal(state, torch.get_rng_state())
    assert training_set.unreadable == []


def test_an_unreadable_image_is_replaced_by_the_next_readable_one(damaged):
    images = image_folder(damaged)
    training_set = TrainingSet(images, np.array, seed=0, on_error="skip")
    for index, shown, label in ((0, 0, 0), (1, 3, 0), (2, 3, 0), (6, 6, 1), (7, 0, 0)):
        image, found = training_set[0, index]
        assert np.array_equal(image, np.array(images.image(shown)))
        assert found == label
    assert training_set.unreadable == [
        str(damaged / name) for name in ("cat/1.png", "cat/2.png", "dog/3.png")
    ]


def test_a_replacement_has_the_draws_of_the_place(damaged):
    training_set = TrainingSet(image_folder(damaged), draw_from_all_three, seed=0, on_error="skip")
    drawn = [training_set[0, index][0].tolist() for index in (1, 2, 3)]
    assert len({tuple(numbers) for numbers in drawn}) == 3


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_give_the_same_bits_and_tell_what_they_skipped(damaged, method):
    training_set = TrainingSet(image_folder(damaged), everything_random(), seed=0, on_error="skip")
    here = torch.stack([image for image, _ in (training_set[place] for place in PLACES[:6])])
    training_set = TrainingSet(image_folder(damaged), everything_random(), seed=0, on_error="skip")
    images, _ = loaded(training_set, PLACES[:6], num_workers=1, multiprocessing_context=method)
    assert torch.equal(images, here)
    assert training_set.unreadable == [str(damaged / "cat/1.png"), str(damaged / "cat/2.png")]


class Missing:
    labels, class_names, fingerprint = (0,) * 300, ("one",), ""

    def __len__(self):
        return 300

    def image(self, index):
        raise FileNotFoundError(f"no file {index}")

    def location(self, index):
        return f"place {index}"


def test_a_disk_that_is_gone_is_an_error_even_when_skipping():
    training_set = TrainingSet(Missing(), np.array, seed=0, on_error="skip")
    with pytest.raises(OSError, match=r"got 100 in a row from place 250 on; the last: no file 49"):
        training_set[0, 250]
    assert len(training_set.unreadable) == LONGEST_GAP


def test_other_words_and_no_images_are_refused(training_set):
    with pytest.raises(ValueError, match="expected on_error 'stop' or 'skip', got 'ignore'"):
        TrainingSet(training_set.images, np.array, seed=0, on_error="ignore")
    empty = EmbeddedImages(torch.empty(0, 1, 28, 28, dtype=torch.uint8), (), ("a",))
    with pytest.raises(ValueError, match="expected images to train on, got none"):
        TrainingSet(empty, np.array, seed=0)
