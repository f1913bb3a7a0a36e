from itertools import pairwise

import numpy as np
import pytest

from tapadl.data.subset import balanced_subset


def test_rule_is_the_documented_one_written_out_by_hand():
    labels = [0] * 7 + [1] * 5 + [2] * 9
    expected = []
    for k, (start, size) in enumerate([(0, 7), (7, 5), (12, 9)]):
        numbers = np.random.Philox(counter=0, key=np.array([230311126, k], "u8")).random_raw(size)
        by_number = sorted(range(size), key=lambda position: numbers[position])
        expected += sorted(start + position for position in by_number[:3])
    assert balanced_subset(labels, ["a", "b", "c"], 9) == expected


def test_list_for_50_images_of_two_classes_stays_what_it_was_published_as():
    assert balanced_subset([0] * 50 + [1] * 50, ["a", "b"], 10) == [9, 12, 16, 32, 48, 54, 72, 73, 82, 85]


def test_order_of_the_images_does_not_matter_across_classes():
    grouped = balanced_subset([0, 0, 0, 0, 1, 1, 1, 1], ["a", "b"], 4)
    mixed = balanced_subset([0, 1, 0, 1, 0, 1, 0, 1], ["a", "b"], 4)
    assert {2 * p if p < 4 else 2 * (p - 4) + 1 for p in grouped} == set(mixed)
    assert mixed == sorted(mixed)


def test_smaller_subset_lies_inside_a_larger_one_and_the_largest_is_everything():
    labels = np.repeat(np.arange(10), 20)
    subsets = [set(balanced_subset(labels, range(10), 10 * count)) for count in (1, 2, 7, 20)]
    assert all(small < large for small, large in pairwise(subsets))
    assert subsets[-1] == set(range(200))


def test_images_of_a_class_are_drawn_evenly():
    chosen = np.array(balanced_subset(np.repeat(np.arange(1000), 50), range(1000), 5000)) % 50
    counts = np.bincount(chosen, minlength=50)
    # Each rank is taken by 1 class in 10: 100 expected, standard deviation 9.5.
    assert abs(counts - 100).max() < 4 * 9.5


@pytest.mark.parametrize("count", [0, -2, 5])
def test_count_that_classes_cannot_share_is_refused(count):
    with pytest.raises(ValueError, match=rf"multiple of 2 images, as many of each class, got {count}"):
        balanced_subset([0, 0, 0, 1, 1, 1], ["a", "b"], count)


def test_more_than_the_smallest_class_has_is_refused_by_its_name():
    with pytest.raises(ValueError, match=r"at most 4 images, 2 of each class as in 'small'.*got 6"):
        balanced_subset([0, 0, 0, 1, 1], ["large", "small"], 6)
