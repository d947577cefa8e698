"""What the headers of image files say: size, channels, orientation, and how the pixels are to be read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from reborn_nas.data.files.headers import DEEP, GREY, Flag, Reader
from reborn_nas.data.files.listing import ARRAY
from reborn_nas.data.files.opening import MOST_CHANNELS, in_threads, read_array, reading, vetted
from reborn_nas.data.files.tiff import SUFFIXES, Tiff, check_tifffile, tiff_of
from reborn_nas.errors import blame_machine

try:
    from torchvision.io import decode_png
except ImportError:  # announced to go
    decode_png = None  # type: ignore[assignment]

__all__ = ["read_headers"]

_ORIENTATION = 0x0112

Table = np.ndarray[Any, Any]


def read_headers(files: Sequence[str | Path], headers: Table) -> None:
    """Fill in the rows of `headers` that are still empty; pixels are not read.

    Raises:
        BrokenImagesError: files that cannot be read, all of them; the others' rows are filled in.
        DataError: files that need tifffile, which is not installed.
    """
    rows = np.flatnonzero(headers["flags"] & Flag.READ == 0)
    for results in in_threads(len(rows), lambda k: _header(Path(files[rows[k]]))):
        for k, row in results:
            headers[rows[k]] = row


def _header(file: Path) -> tuple[int, ...]:
    suffix = file.suffix.lower()
    if suffix == ARRAY:
        array = read_array(file)
        flags = Flag.READ | Flag.ARRAY | Flag.DEEP * (array.dtype != np.uint8)
        as_stored = array.strides[2] == array.itemsize and array.shape[2] > 1
        flags |= Flag.EITHER * (as_stored and array.shape[0] <= MOST_CHANNELS)
        return *array.shape, 1, Reader.ARRAY, flags, 0, 0
    tiff = tiff_of(file) if suffix in SUFFIXES else None
    if tiff is not None and not tiff.plain:
        return vetted(file, lambda: _by_tifffile(file, tiff))

    def read(image: Image.Image) -> tuple[int, ...]:
        found = tiff_of(file) if tiff is None and image.format == "TIFF" else tiff
        if found is not None and not found.plain:  # named otherwise
            return _by_tifffile(file, found)
        return _by_pillow(file, image, found)

    row, stripped = reading(file, read)
    *first, flags, low, high = row
    return *first, flags | Flag.ODD * stripped, low, high


def _row(height: int, width: int, channels: int, turn: int, reader: int, flags: int) -> tuple[int, ...]:
    if turn >= 5:
        height, width = width, height
    return height, width, channels, turn, reader, flags, 0, 0


def _by_tifffile(file: Path, tiff: Tiff) -> tuple[int, ...]:
    check_tifffile(file, tiff)
    _check_channels(tiff)
    return _row(tiff.height, tiff.width, tiff.channels, tiff.turn, Reader.TIFF, _of_tiff(tiff))


def _check_channels(tiff: Tiff) -> None:
    if tiff.channels > MOST_CHANNELS:
        what = f"{tiff.pages} grey pages" if tiff.pages > 1 else f"{tiff.samples} samples a pixel"
        raise ValueError(f"it has {what}, and at most {MOST_CHANNELS} are read as channels")


def _by_pillow(file: Path, image: Image.Image, tiff: Tiff | None) -> tuple[int, ...]:
    """The row of an image whose pixels Pillow can read; nothing is decoded yet."""
    width, height = image.size
    wide = (
        ";16" in str(getattr(image, "tile", "")) or _bits(file, image) > 8
    )  # the tile is gone once it is loaded
    turn = _orientation(file, image)
    flags = Flag.READ | Flag.ODD * (turn is None)
    reader, channels = Reader.PILLOW, 1 if image.mode in GREY else 3
    if image.mode in DEEP:
        flags |= Flag.DEEP
    elif wide:
        if image.format == "PNG" and decode_png is not None:
            reader, flags = Reader.DEEP_PNG, flags | Flag.DEEP
        else:
            flags |= Flag.WIDE
    elif image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB"):
        reader = Reader.JPEG
    if image.has_transparency_data:
        flags |= Flag.ALPHA
    if tiff is not None:
        flags |= _of_tiff(tiff) & ~Flag.DEEP
        if tiff.pages > 1:
            _check_channels(tiff)
            reader, channels = Reader.PAGES, tiff.pages
    elif image.format != "MPO" and getattr(image, "n_frames", 1) > 1:  # phones add a small copy
        flags |= Flag.SEVERAL
    return _row(height, width, channels, turn or 1, reader, flags)


def _of_tiff(tiff: Tiff) -> int:
    flags = Flag.READ | Flag.DEEP * tiff.deep | Flag.SEVERAL * (tiff.others > 0)
    return flags | Flag.ALPHA * tiff.alpha | Flag.PAGES * (tiff.pages > 1)


def _bits(file: Path, image: Image.Image) -> int:
    """Bits of a colour channel in formats of which Pillow keeps 8 without a word."""
    find = {
        "PPM": rb"P[36]\s+(?:#[^\n]*\s+)*\d+\s+(?:#[^\n]*\s+)*\d+\s+(?:#[^\n]*\s+)*(\d+)",
        "JPEG2000": rb"\xff\x51.{38}(.)",
        "AVIF": rb"pixi.{4}.(.)",
    }
    if image.format not in find or image.mode not in ("RGB", "RGBA", "LA"):
        return 8
    with file.open("rb") as stream:
        found = re.search(find[image.format], stream.read(4096), re.DOTALL)
    if found is None:
        return 8
    if image.format == "PPM":
        return int(found[1]).bit_length()
    return found[1][0] if image.format == "AVIF" else (found[1][0] & 0x7F) + 1


def _orientation(file: Path, image: Image.Image) -> int | None:
    """EXIF's number of the orientation, 1 where there is none; None where the metadata cannot be read."""
    kept = any("exif" in key.lower() or "xmp" in key.lower() for key in map(str, image.info))
    if not kept and image.format == "JPEG":
        return 1  # nothing that would have to be parsed
    if not kept and image.format == "PNG" and not _has_exif(file):
        return 1  # Pillow would decode the pixels to look behind them
    try:
        found = image.getexif().get(_ORIENTATION, 1)
        return found if isinstance(found, int) and 1 <= found <= 8 else 1
    except Exception as error:
        blame_machine(error, "an image")
        return None


_PNG_START = 8
_WORDS = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")


def _has_exif(file: Path) -> bool:
    """Whether a PNG file has a chunk that may hold EXIF data, before its pixels or behind them."""
    with file.open("rb") as stream:
        stream.seek(_PNG_START)
        while len(head := stream.read(8)) == 8:
            if head[4:] in _WORDS:
                return True
            stream.seek(4 + int.from_bytes(head[:4], "big"), 1)
    return False
