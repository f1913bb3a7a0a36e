import itertools

import numpy as np
import pytest

from tapadl.corruptions import CORRUPTIONS, SEVERITIES
from tapadl.corruptions.random import Draws


def test_each_of_the_four_gives_another_stream():
    settings = list(itertools.product((0, 2**64 - 1), (0, 2**63 - 1), CORRUPTIONS, SEVERITIES))
    streams = [
        tuple(Draws(seed, [index], corruption, severity).uniform(2)[0])
        for seed, index, corruption, severity in settings
    ]
    assert len(set(streams)) == len(settings)


def test_a_second_call_goes_on_where_the_first_ended():
    draws = Draws(0, [3, 4], "fog", 1)
    both = np.concatenate((draws.uniform(5), draws.uniform(7)), axis=1)
    assert (both == Draws(0, [3, 4], "fog", 1).uniform(12)).all()


def test_the_stream_is_the_one_recorded_here():
    # Results already on disk were made with these numbers.
    recorded = [0.24775326, 0.46506262, 0.92505419, 0.14321661]
    assert Draws(7, [11], "fog", 3).uniform(4)[0].tolist() == pytest.approx(recorded, abs=1e-7)


def test_shapes_and_dtypes():
    draws = Draws(0, range(3), "fog", 1)
    for drawn in (
        draws.normal(2, 5),
        draws.uniform(2, 5),
        draws.poisson(np.full((3, 2, 5), 4.0, np.float32)),
    ):
        assert drawn.shape == (3, 2, 5)
        assert drawn.dtype == np.float32
    assert draws.uniform().shape == (3,)


def test_moments_are_those_of_the_distributions():
    draws = Draws(0, range(50), "fog", 1)
    normal, uniform = draws.normal(2000), draws.uniform(2000)
    counts = draws.poisson(np.full((50, 2000), 6.5, np.float32))
    count = normal.size
    assert abs(normal.mean()) < 4 / count**0.5
    assert normal.std() == pytest.approx(1, abs=4 / (2 * count) ** 0.5)
    assert uniform.mean() == pytest.approx(0.5, abs=4 * (1 / 12 / count) ** 0.5)
    assert counts.mean() == pytest.approx(6.5, abs=4 * (6.5 / count) ** 0.5)
    assert counts.var() == pytest.approx(6.5, rel=0.03)
