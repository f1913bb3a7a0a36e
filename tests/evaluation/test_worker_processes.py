import math
import multiprocessing
import os

import pytest

from tapadl.evaluation.worker_processes import map_side_by_side


def test_one_process_is_this_one():
    assert list(map_side_by_side(lambda task: os.getpid(), [1], processes=1)) == [os.getpid()]


def test_all_results_come_and_an_error_ends_the_processes():
    results = []
    with pytest.raises(ValueError, match="math domain error"):  # noqa: PT012  what came before counts too
        for result in map_side_by_side(math.sqrt, [*range(40), -1], processes=2):
            results.append(result)
    # the last of 41 tasks is begun when all but those in the queue have come back
    assert set(results) <= {math.sqrt(number) for number in range(40)}
    assert len(results) >= 40 - 8
    assert multiprocessing.active_children() == []


def test_a_process_that_dies_is_told_in_a_sentence():
    with pytest.raises(RuntimeError, match="a worker process was killed"):
        list(map_side_by_side(os._exit, [3], processes=2))
