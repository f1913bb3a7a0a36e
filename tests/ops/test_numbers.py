import numpy as np
import pytest
import torch

from tapadl.ops.numbers import is_integer, is_number


@pytest.mark.parametrize("value", [0, -3, 2**70, np.int64(4), np.uint8(4)])
def test_integers_of_python_and_numpy_are_integers_and_numbers(value):
    assert is_integer(value)
    assert is_number(value)


@pytest.mark.parametrize("value", [0.5, float("nan"), np.float32(2), np.float64(2)])
def test_fractions_are_numbers_only(value):
    assert not is_integer(value)
    assert is_number(value)


@pytest.mark.parametrize("value", [None, "3", True, 3j, (3,), torch.tensor(3), np.ones(1)])
def test_what_is_no_number_is_neither(value):
    assert not is_integer(value)
    assert not is_number(value)


def test_symbols_of_a_compiler_are_numbers():
    @torch.compile(fullgraph=True, dynamic=True, backend="aot_eager")
    def add(values, factor):
        side = values.shape[0] * 2
        return (
            values + is_integer(side) + 2 * is_integer(factor) + 4 * is_number(side) + 8 * is_number(factor)
        )

    for size, factor in ((3, 0.5), (4, 0.25)):
        assert torch.equal(add(torch.zeros(size), factor), torch.full((size,), 13.0))
