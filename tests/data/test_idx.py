import gzip

import pytest
import torch

from tapadl.data.idx import format_idx, parse_idx, read_idx


@pytest.fixture
def array():
    return torch.randint(0, 256, (3, 4, 5), dtype=torch.uint8)


def test_what_is_written_is_read(tmp_path, array):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(format_idx(array)))
    assert torch.equal(read_idx(path), array)


def test_header_is_that_of_the_published_format(array):
    assert format_idx(array)[:16] == bytes([0, 0, 8, 3, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5])


def test_arrays_one_after_another_are_all_read(array):
    first, second = parse_idx(format_idx(array) + format_idx(array[0, 0]), source="memory", count=2)
    assert torch.equal(first, array)
    assert torch.equal(second, array[0, 0])


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected a gzipped idx file at .*none\.gz"):
        read_idx(tmp_path / "none.gz")


@pytest.mark.parametrize("keep", [0, 1, 5, 20, -1])
def test_file_cut_short_is_named(tmp_path, array, keep):
    path = tmp_path / "short.gz"
    path.write_bytes(gzip.compress(format_idx(array))[:keep])
    with pytest.raises(ValueError, match=r"short\.gz"):
        read_idx(path)


def test_file_that_is_not_gzip_is_named(tmp_path):
    path = tmp_path / "page.gz"
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match=r"page\.gz.*damaged"):
        read_idx(path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "no valid header"),
        (bytes([0, 0, 13, 1, 0, 0, 0, 1]) + bytes(4), "no valid header"),
        (bytes([0, 0, 8, 3, 0, 0]), "no valid header"),
        (bytes([0, 0, 8, 1, 0, 0, 0, 9]) + bytes(4), "expected 9 values in array 1 of here, got 4"),
        (bytes([0, 0, 8, 1, 0, 0, 0, 1]) + bytes(4), "3 more bytes"),
    ],
)
def test_content_that_is_no_array_of_bytes_is_an_error(content, problem):
    with pytest.raises(ValueError, match=problem):
        parse_idx(content, source="here", count=1)
