import math

import numpy as np
import torch

from tapadl.diagnostics.explorer.packing import pack_dilation, pack_page, pack_rows, unpack_page


def read_rows(packed: bytes, length: int) -> np.ndarray:
    rows = np.frombuffer(packed, dtype=np.uint8).reshape(-1, 2 + length)
    largest = 2.0 ** (-rows[:, :2].copy().view("<u2").astype(float) / 4096)
    return largest * (rows[:, 2:] / 63.0) ** 2


def test_packed_attention_is_off_by_less_than_a_step():
    attention = torch.softmax(3 * torch.randn(40, 197, dtype=torch.float64), dim=1)
    found = read_rows(pack_rows(attention), 197)
    largest = attention.amax(dim=1, keepdim=True).numpy()
    assert (np.abs(found - attention.numpy()) <= largest / 63 + 1e-4 * attention.numpy()).all()
    np.testing.assert_allclose(found.max(axis=1), largest[:, 0], rtol=1e-4)


def test_one_hot_uniform_and_empty_rows_come_back():
    rows = torch.stack((torch.eye(5)[2], torch.full((5,), 0.2), torch.zeros(5)))
    np.testing.assert_allclose(read_rows(pack_rows(rows), 5), rows, atol=1e-4)


def test_dilation_takes_a_byte_a_patch():
    packed = pack_dilation(torch.tensor([[0.0, 1.5], [3.0, 0.3]]), 4)
    assert list(packed) == [0, 128, 255, 26]
    assert list(pack_dilation(torch.zeros(1, 1), 1)) == [0]


def test_page_data_come_back_as_they_were():
    header = {"names": ["straße", "</script>"], "value": math.pi}
    packed = pack_page(header, bytes(range(256)))
    assert unpack_page(packed) == (header, bytes(range(256)))
    assert "<" not in packed
