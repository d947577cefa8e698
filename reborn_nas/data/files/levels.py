"""Which values of images of more than 8 bits become black and white, and whether 8 bits keep them apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reborn_nas.data.files.headers import Flag, Reader
from reborn_nas.data.files.opening import in_threads, vetted
from reborn_nas.data.files.raw import raw_pixels

__all__ = ["array_header", "levels_of"]

_EXACT = 1e-4
"""So far from a 255th, in units of one, a fraction may lie that came from a byte: float16 has 11 bits."""

Table = np.ndarray[Any, Any]


def levels_of(
    files: Sequence[str | Path], headers: Table, channels: int, notes: list[str]
) -> tuple[str, float, float]:
    """The type in which pixels are kept, and the values that become 0 and its largest: one range for all deep images.

    Whole numbers: 0 to the largest value of as many bits as are used, 8 at least. Fractions: 0 to 1 or 0 to 255 where
    all lie in it. Else from the smallest to the largest. Bytes are kept where they keep all values apart, or where most
    of the set's images have no more, else 16 bits: whole numbers that span at most 65,536 values stay apart, and
    fractions have even steps, where float16, of the same size, has 1,024 steps in the upper half of the range.
    """
    deep = np.flatnonzero(headers["flags"] & Flag.DEEP)
    if not len(deep):
        return "uint8", 0.0, 255.0
    rows = deep[headers["flags"][deep] & Flag.RANGED == 0]

    def span(k: int) -> tuple[float, float, int]:
        file = Path(files[rows[k]])
        return vetted(file, lambda: _span(raw_pixels(file, headers[rows[k]], channels)))

    for results in in_threads(len(rows), span):
        for k, (least, most, flags) in results:
            row = headers[rows[k] : rows[k] + 1]
            row["low"], row["high"] = least, most
            row["flags"] |= np.uint16(Flag.RANGED | flags)
    low, high = float(headers["low"][deep].min()), float(headers["high"][deep].max())
    known = headers["flags"][deep]
    fractions, bytes_ = bool((known & Flag.FRACTIONS).any()), bool((known & Flag.BYTES).all())
    if low >= 0 and not fractions:
        low, high = 0.0, float((1 << max(8, int(high).bit_length())) - 1)
    elif low >= 0 and high <= 255:
        low, high = 0.0, 1.0 if high <= 1 else 255.0
    elif low == high:
        high = low + 1  # a constant set, which is refused when its pixels are there
    few = 2 * len(deep) < len(files)  # they do not double the size of all others
    kind = "uint8" if few or _fits_bytes(low, high, fractions, bytes_) else "uint16"
    kept = "255 in all of them" if kind == "uint8" else "65535 in all of them, kept in 16 bits (uint16)"
    notes.append(f"{len(deep)} images have more than 8 bits a pixel: {low:g} … {high:g} become 0 … {kept}")
    return kind, low, high


def array_header(values: Table, known: int) -> tuple[Any, ...]:
    """The row of an image that is there as an array (H, W, C), the range of its values included.

    Args:
        known: flags of the object that it was made of.

    Raises:
        ValueError: it holds values that are not finite.
    """
    flags, low, high = Flag.READ | known, 0.0, 0.0
    if values.dtype != np.uint8:
        low, high, kind = _span(values)
        flags |= Flag.DEEP | Flag.RANGED | kind
    return *values.shape, 1, Reader.ARRAY, flags, low, high


def _fits_bytes(low: float, high: float, fractions: bool, bytes_: bool) -> bool:
    """Whether 256 levels from `low` to `high` merge no two values."""
    if not fractions:
        return high - low <= 255
    return bytes_ and low == 0 and high in (1.0, 255.0)


def _span(values: Table) -> tuple[float, float, int]:
    """The smallest and the largest value of an image, and flags: fractions, and whether these were bytes once."""
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("it holds values that are not finite")
    if values.dtype.kind != "f":
        return low, high, Flag.BYTES
    bytes_ = False
    if low >= 0 and high <= 255:
        scaled = values.astype(np.float32) * (255 if high <= 1 else 1)
        bytes_ = bool((np.abs(scaled - np.rint(scaled)) <= _EXACT * 255).all())
    return low, high, Flag.FRACTIONS | Flag.BYTES * bytes_
