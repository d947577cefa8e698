"""The IDX files of MNIST and its kin."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np

from reborn_nas.errors import DataError


def read_idx(path: Path) -> np.ndarray[Any, Any]:
    """An IDX file of unsigned bytes (http://yann.lecun.com/exdb/mnist), plain or gzipped."""
    packed = path.with_name(path.name + ".gz")
    data = path.read_bytes() if path.exists() else gzip.decompress(packed.read_bytes())
    if len(data) < 4 or data[:3] != b"\x00\x00\x08":
        raise DataError(f"{path} is no IDX file of bytes; delete it and let it be downloaded again")
    shape = [int.from_bytes(data[4 + 4 * k : 8 + 4 * k], "big") for k in range(data[3])]
    body = data[4 + 4 * data[3] :]
    if int(np.prod(shape)) != len(body):
        raise DataError(f"{path} is cut short: {len(body)} bytes for the shape {shape}; download it again")
    return np.frombuffer(body, dtype=np.uint8).reshape(shape)
