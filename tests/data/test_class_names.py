from importlib.resources import files

import pytest

from tapadl.data.class_names import are_numbers_of_v2, outputs_of, wordnet_ids


def test_outputs_of_imagenet_are_in_the_order_of_the_sorted_ids():
    assert len(wordnet_ids()) == 1000
    assert list(wordnet_ids()) == sorted(wordnet_ids())
    assert (wordnet_ids()[0], wordnet_ids()[999]) == ("n01440764", "n15075141")


@pytest.mark.parametrize("name", ["a", "r"])
def test_outputs_of_the_200_classes_are_those_timm_lists(name):
    folder = files("timm.data") / "_info"
    ids = (folder / f"imagenet_{name}_synsets.txt").read_text().split()
    indices = [int(index) for index in (folder / f"imagenet_{name}_indices.txt").read_text().split()]
    assert list(outputs_of(ids)) == indices


def test_names_that_say_nothing_give_no_outputs():
    assert outputs_of(wordnet_ids()) is None
    assert outputs_of([*wordnet_ids()[:5], "cat"]) is None
    assert outputs_of([*wordnet_ids(), "cat"]) is None


def test_only_all_thousand_numbers_are_those_of_v2():
    numbers = [str(number) for number in range(1000)]
    assert are_numbers_of_v2(sorted(numbers))
    assert not are_numbers_of_v2(numbers[:-1])
    assert not are_numbers_of_v2([f"{number:03}" for number in range(1000)])
