"""Attention in bytes, and everything of a page in one compressed text."""

import base64
import gzip
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

# Steps of a stored value, even in its square root: finer than an eye tells colours apart, and they pack well.
LEVELS = 63
# log2 of the largest value of a row, in units of 1 / SCALE_UNIT, goes into two bytes.
SCALE_UNIT = 4096


def pack_rows(rows: torch.Tensor) -> bytes:
    """Rows of attention (..., M): of each its largest value, then every value relative to it.

    With m the largest of a row: two bytes (little-endian) of round(-4096 log2 m), and a byte of
    round(63 sqrt(a / m)) for each value a. Reading gives 2^(-u / 4096) (b / 63)^2, off by at most
    (m / 63) + 0.0001 a.

    Example:
        >>> list(pack_rows(torch.tensor([[0.5, 0.125, 0.0]])))
        [0, 16, 63, 32, 0]
    """
    values = rows.detach().to("cpu", torch.float64).flatten(0, -2).numpy()
    largest = values.max(axis=1, keepdims=True).clip(2.0**-15.99, 1.0)
    scale = np.round(-np.log2(largest) * SCALE_UNIT).astype("<u2")
    levels = np.round(LEVELS * np.sqrt((values / largest).clip(0, 1))).astype(np.uint8)
    return np.concatenate((scale.view(np.uint8), levels), axis=1).tobytes()


def pack_dilation(dilation: torch.Tensor, num_branches: int) -> bytes:
    """A map of mean dilations, a byte of round(255 d / (K - 1)) each."""
    widest = max(num_branches - 1, 1)
    return (dilation.detach().cpu() / widest * 255).round().clamp(0, 255).byte().numpy().tobytes()


def squeezed(content: bytes) -> bytes:
    """As the page holds it."""
    return gzip.compress(content, compresslevel=9, mtime=0)


def pack_page(header: Mapping[str, Any], body: bytes) -> str:
    """Length of the header in four bytes (little-endian), the header in JSON, the body; gzip; base64."""
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    return base64.b64encode(squeezed(len(text).to_bytes(4, "little") + text + body)).decode("ascii")


def unpack_page(packed: str) -> tuple[dict[str, Any], bytes]:
    """Header and body of what `pack_page` gives."""
    content = gzip.decompress(base64.b64decode(packed))
    end = 4 + int.from_bytes(content[:4], "little")
    header: dict[str, Any] = json.loads(content[4:end])
    return header, content[end:]
