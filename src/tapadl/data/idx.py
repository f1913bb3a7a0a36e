"""The idx file format of MNIST and its relatives, for arrays of bytes."""

import gzip
import zlib
from math import prod
from pathlib import Path

import torch

_UNSIGNED_BYTE = 0x08


def read_idx(path: str | Path) -> torch.Tensor:
    """The array in a gzipped idx file.

    Args:
        path: A `.gz` file with one idx array of unsigned bytes.

    Returns:
        The array, uint8, of the shape in the file's header.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not gzip, is cut short, or does not hold exactly one array of bytes.
    """
    path = Path(path)
    try:
        content = gzip.decompress(path.read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(f"expected a gzipped idx file at {path}, but there is no such file") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(
            f"expected a gzipped idx file at {path}, but it is damaged or cut short ({error}); fetch it again"
        ) from None
    (array,) = parse_idx(content, source=str(path), count=1)
    return array


def parse_idx(content: bytes, *, source: str, count: int) -> tuple[torch.Tensor, ...]:
    """The idx arrays that stand one after another in `content`.

    Args:
        content: The bytes: for every array a header (two zeros, the type, the number of dimensions, the
            sizes as big-endian 32-bit numbers) and the values.
        source: Where the bytes come from, for the error message.
        count: How many arrays to expect.

    Returns:
        The arrays, uint8.

    Raises:
        ValueError: If the bytes are anything but `count` arrays of unsigned bytes.

    Example:
        >>> array = torch.tensor([[1, 2, 3]], dtype=torch.uint8)
        >>> parse_idx(format_idx(array), source="memory", count=1)[0]
        tensor([[1, 2, 3]], dtype=torch.uint8)
    """
    arrays = []
    start = 0
    for number in range(1, count + 1):
        header = content[start : start + 4]
        num_dims = header[3] if len(header) == 4 else 0
        sizes_end = start + 4 + 4 * num_dims
        if header[:3] != bytes((0, 0, _UNSIGNED_BYTE)) or num_dims == 0 or len(content) < sizes_end:
            raise ValueError(
                f"expected {count} idx array(s) of unsigned bytes in {source}, "
                f"but array {number} has no valid header; fetch the file again"
            )
        sizes = [int.from_bytes(content[at : at + 4], "big") for at in range(start + 4, sizes_end, 4)]
        end = sizes_end + prod(sizes)
        if len(content) < end:
            raise ValueError(
                f"expected {prod(sizes)} values in array {number} of {source}, "
                f"got {len(content) - sizes_end}; the file is cut short, fetch it again"
            )
        # bytearray: torch wants memory it may write to
        values = torch.frombuffer(bytearray(content[sizes_end:end]), dtype=torch.uint8)
        arrays.append(values.reshape(sizes))
        start = end
    if start != len(content):
        raise ValueError(
            f"expected {count} idx array(s) in {source}, got {len(content) - start} more bytes after them"
        )
    return tuple(arrays)


def format_idx(array: torch.Tensor) -> bytes:
    """The idx form of a uint8 array, header and values; what `parse_idx` reads."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes((0, 0, _UNSIGNED_BYTE, array.ndim)) + sizes + array.contiguous().numpy().tobytes()
