"""What the headers of image files decide: the size, the channels and the range of the pixels that are kept."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from reborn_nas.data.files.listing import ARRAY
from reborn_nas.data.files.opening import BrokenImagesError, in_threads, read_array, reading
from reborn_nas.errors import DataError, blame_machine

__all__ = [
    "DEEP",
    "GREY",
    "HEADER",
    "RESIZES",
    "Layout",
    "array_header",
    "orientation",
    "read_headers",
    "settle",
]

GREY = frozenset(("1", "L", "I", "I;16", "I;16B", "I;16L", "I;16N", "F"))
DEEP = frozenset(("I", "I;16", "I;16B", "I;16L", "I;16N", "F"))  # more than 8 bits a pixel
_TURNED = frozenset((5, 6, 7, 8))  # EXIF orientations that swap width and height
_ORIENTATION = 0x0112

HEADER = np.dtype([
    ("height", "<u4"), ("width", "<u4"), ("channels", "u1"), ("flags", "u1"), ("low", "<f8"), ("high", "<f8"),
])  # fmt: skip
"""One row a file: height and width as seen, and `flags`; `low` and `high` of its values where it is deep."""

_READ, _IS_DEEP, _ODD, _SEVERAL, _WIDE, _RANGED, _FRACTIONS, _ARRAY = (1 << k for k in range(8))
_NOTES = (
    (_ODD, "images have broken metadata, which was not read; their pixels are whole"),
    (_SEVERAL, "files hold several images or pages, of which the first is read"),
    (_WIDE, "colour images have 16 bits a channel, of which the upper 8 are read"),
)

RESIZES = {
    "cover": "scaled to cover it and cut in the middle",
    "contain": "scaled to lie within it, black around",
    "stretch": "stretched to it",
}
"""What may become of images of another size."""

Table = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Layout:
    """What all images of a set become.

    Args:
        low, high: the values of images of more than 8 bits that become 0 and 255.
        resize: what becomes of images of another size, a key of `RESIZES`.
    """

    channels: int
    height: int
    width: int
    low: float = 0.0
    high: float = 255.0
    resize: str = "cover"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.channels, self.height, self.width

    @property
    def bytes(self) -> int:
        """Bytes of one image."""
        return math.prod(self.shape)

    @property
    def name(self) -> str:
        """A file name that no other layout has."""
        plain = f"{self.channels}x{self.height}x{self.width}-uint8"
        plain += "" if self.resize == "cover" else f"-{self.resize}"
        if (self.low, self.high) == (0.0, 255.0):
            return plain
        return f"{plain}-{hashlib.sha256(repr((self.low, self.high)).encode()).hexdigest()[:8]}"


def settle(
    files: Sequence[str | Path],
    headers: Table,
    size: tuple[int, int] | None,
    notes: list[str],
    resize: str = "cover",
) -> Layout:
    """The layout of `files`. Rows of `headers` that are not filled in yet are read, then no file is opened.

    Args:
        headers: (N,) of `HEADER`; filled in place.
        size: (height, width); without it the most common one.
        notes: what was decided is appended here.
        resize: what becomes of images of another size, a key of `RESIZES`.

    Raises:
        BrokenImagesError: files without a header that can be read, all of them.
        DataError: arrays of different numbers of channels; more than 8 bits and not one value but the same.
    """
    read_headers(files, headers)
    channels = _channels(files, headers)
    sizes, counts = np.unique(
        np.stack([headers["height"], headers["width"]], 1).astype(np.int64), axis=0, return_counts=True
    )
    found = {(int(h), int(w)): int(n) for (h, w), n in zip(sizes, counts)}
    if size is None:
        # the most common; of several, the largest, so that the order of the files does not matter
        size = max(found, key=lambda s: (found[s], s[0] * s[1], s))
    H, W = size
    others = len(files) - found.get(size, 0)
    if others:
        notes.append(f"{others} of {len(files)} images are not {H}×{W}: {RESIZES[resize]}")
    for flag, text in _NOTES:
        if count := int(np.count_nonzero(headers["flags"] & flag)):
            notes.append(f"{count} {text}")
    low, high = _deep_range(files, headers, notes)
    return Layout(channels, H, W, low, high, resize)


def _channels(files: Sequence[str | Path], headers: Table) -> int:
    """Of arrays what all of them have; of pictures 1 if all are grey, else 3."""
    found, first = np.unique(headers["channels"], return_index=True)
    if not (headers["flags"] & _ARRAY).any():
        return 1 if found.tolist() == [1] else 3
    if 0 < np.count_nonzero(headers["flags"] & _IS_DEEP) < len(files):
        raise DataError(
            "some arrays are uint8 and others not, so that the same value may mean two things; store all in one type"
        )
    if len(found) > 1:
        some = ", ".join(f"{files[k]} has {n}" for n, k in zip(found.tolist()[:3], first.tolist()))
        raise DataError(f"all arrays of a data set have the same number of channels, but {some}")
    return int(found[0])


def read_headers(files: Sequence[str | Path], headers: Table) -> None:
    """Fill in the rows of `headers` that are still empty; pixels are not read.

    Raises:
        BrokenImagesError: files that cannot be read, all of them; the others' rows are filled in.
    """
    rows = np.flatnonzero(headers["flags"] & _READ == 0)
    for results in in_threads(len(rows), lambda k: _header(Path(files[rows[k]]))):
        for k, row in results:
            headers[rows[k]] = row


def _header(file: Path) -> tuple[int, int, int, int, float, float]:
    if file.suffix.lower() == ARRAY:
        array = read_array(file)
        return *array.shape, _READ | _ARRAY | _IS_DEEP * (array.dtype != np.uint8), 0.0, 0.0

    def read(image: Image.Image) -> tuple[int, int, int, int]:
        wide = image.mode not in DEEP and ";16" in str(getattr(image, "tile", ""))  # gone once it is loaded
        width, height = image.size
        turn = orientation(image)
        if turn in _TURNED:
            width, height = height, width
        several = image.format != "MPO" and getattr(image, "n_frames", 1) > 1  # phones add a small copy
        flags = _READ | _ODD * (turn is None) | _SEVERAL * several | _WIDE * wide
        flags |= _IS_DEEP * (image.mode in DEEP)
        return height, width, 1 if image.mode in GREY else 3, flags

    (height, width, channels, flags), stripped = reading(file, read)
    return height, width, channels, flags | _ODD * stripped, 0.0, 0.0


def array_header(values: Table, *, picture: bool) -> tuple[int, int, int, int, float, float]:
    """The row of an image that is there as an array (H, W, C), the range of its values included.

    Args:
        picture: whether it may be grey among coloured ones.

    Raises:
        ValueError: it holds values that are not finite.
    """
    deep = values.dtype != np.uint8
    low, high, fractions = _span_of(values) if deep else (0.0, 0.0, False)
    flags = _READ | _ARRAY * (not picture) | (_IS_DEEP | _RANGED) * deep | _FRACTIONS * fractions
    return *values.shape, flags, low, high  # type: ignore[return-value]


def orientation(image: Image.Image) -> int | None:
    """EXIF's number of the orientation, 1 where there is none; None where the metadata cannot be read."""
    if image.format == "JPEG" and not any("exif" in key or "xmp" in key for key in map(str, image.info)):
        return 1  # nothing that would have to be parsed
    try:
        found = image.getexif().get(_ORIENTATION, 1)
        return found if isinstance(found, int) else 1
    except Exception as error:
        blame_machine(error, "an image")
        return None


def _deep_range(files: Sequence[str | Path], headers: Table, notes: list[str]) -> tuple[float, float]:
    """The values that become 0 and 255 in images of more than 8 bits: one range for all of them.

    Whole numbers: 0 to the largest value of as many bits as are used, 8 at least. Fractions: 0 to 1 or 0 to 255 where
    all lie in it. Else from the smallest to the largest.
    """
    deep = np.flatnonzero(headers["flags"] & _IS_DEEP)
    if not len(deep):
        return 0.0, 255.0
    rows = deep[headers["flags"][deep] & _RANGED == 0]

    for results in in_threads(len(rows), lambda k: _span(Path(files[rows[k]]))):
        for k, (least, most, fractions) in results:
            row = headers[rows[k] : rows[k] + 1]
            row["low"], row["high"] = least, most
            row["flags"] |= _RANGED | _FRACTIONS * fractions
    low, high = float(headers["low"][deep].min()), float(headers["high"][deep].max())
    if low >= 0 and not (headers["flags"][deep] & _FRACTIONS).any():
        low, high = 0.0, float((1 << max(8, int(high).bit_length())) - 1)
    elif low >= 0 and high <= 255:
        low, high = 0.0, 1.0 if high <= 1 else 255.0
    elif low == high:
        high = low + 1  # a constant set, which is refused when its pixels are there
    notes.append(
        f"{len(deep)} images have more than 8 bits a pixel: {low:g} … {high:g} become 0 … 255 in all of them"
    )
    return low, high


def _span(file: Path) -> tuple[float, float, bool]:
    """The smallest and the largest value of an image, and whether they are fractions."""
    if file.suffix.lower() != ARRAY:
        return reading(file, lambda image: _span_of(np.asarray(image)))[0]
    try:
        return _span_of(read_array(file))
    except BrokenImagesError:
        raise
    except ValueError as error:
        raise BrokenImagesError([(file, str(error))]) from error


def _span_of(values: Table) -> tuple[float, float, bool]:
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("it holds values that are not finite")
    return low, high, values.dtype.kind == "f"
