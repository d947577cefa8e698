"""TIFF files that Pillow does not read, or not rightly: many channels, deep colours, signed bytes; by tifffile."""

from __future__ import annotations

import contextlib
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from reborn_nas.errors import DataError, blame_machine

tifffile: Any = None
with contextlib.suppress(ImportError):
    tifffile = importlib.import_module("tifffile")

__all__ = ["SUFFIXES", "Tiff", "check_tifffile", "read_tiff", "tiff_of"]

SUFFIXES = frozenset((".tif", ".tiff"))

_MOST_PAGES = 10_000
"""After so many, a file's chain of pages is taken for a loop."""

# tags of TIFF 6.0
_SUBFILE, _WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _TURN = 254, 256, 257, 258, 262, 274
_SAMPLES, _EXTRA, _FORMAT = 277, 338, 339
_BILEVEL_OR_GREY = (0, 1)
_WHITE_IS_ZERO = 0
_SIGNED, _FLOAT = 2, 3
_ALPHA = (1, 2)


@dataclass(frozen=True)
class Tiff:
    """What the tags of a TIFF file say.

    Args:
        pages: grey pages of one size that are the channels of one image; 1 where they are not.
        samples: values a pixel that are channels, without transparency.
        bits: of each sample.
        deep: whether they are something else than unsigned bytes.
        plain: whether Pillow reads it as it is meant.
        others: pages beside those that are read.
        alpha: whether a sample is transparency.
        turn: as EXIF's orientation.
    """

    height: int
    width: int
    pages: int
    samples: int
    bits: int
    deep: bool
    plain: bool
    others: int
    alpha: bool
    turn: int

    @property
    def channels(self) -> int:
        """Of the image."""
        return self.pages * self.samples


def tiff_of(file: Path) -> Tiff | None:
    """What the tags of `file` say; None where it is no TIFF file, or its tags cannot be read."""
    try:
        pages = list(_pages(file))
    except Exception as error:
        blame_machine(error, f"image {file}")
        return None
    if not pages:
        return None
    first = pages[0]
    alike = sum(page[:-1] == first[:-1] for page in pages)
    height, width, bits, kind, photometric, samples, extra, turn = first
    alpha = bool(extra) and extra[-1] in _ALPHA
    samples -= alpha
    stack = alike if samples == 1 and not alpha and photometric in _BILEVEL_OR_GREY else 1
    return Tiff(
        height=height,
        width=width,
        pages=stack,
        samples=samples,
        bits=max(bits),
        deep=max(bits) > 8 or kind in (_SIGNED, _FLOAT),
        plain=_is_plain(bits, kind, samples, photometric),
        others=len(pages) - stack,
        alpha=alpha,
        turn=turn,
    )


def _is_plain(bits: tuple[int, ...], kind: int, samples: int, photometric: int) -> bool:
    """Whether Pillow reads such pages as they are meant.

    It takes signed bytes for unsigned ones and 32 unsigned bits for signed ones, reads deep colours to 8 bits, and
    leaves out what there is beside red, green and blue.
    """
    depth = max(bits)
    if photometric == _WHITE_IS_ZERO and depth > 8:
        return False  # it does not turn these round
    if samples == 1 and photometric in (*_BILEVEL_OR_GREY, 3):
        if kind == _FLOAT:
            return depth == 32
        return depth in ((16, 32) if kind == _SIGNED else (1, 2, 4, 8, 16))
    return depth == 8 and kind == 1 and samples == {2: 3, 5: 4, 6: 3, 8: 3}.get(photometric)


def _pages(file: Path) -> Any:
    """(height, width, bits, kind of number, photometric, samples, extra samples, turn) of each full page."""
    with file.open("rb") as stream:
        head = stream.read(16)
        if head[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return
        tags = ImageFileDirectory_v2(head if head[2:3] == b"+" or head[3:4] == b"+" else head[:8])
        seen: set[int] = set()
        at = tags.next
        while at and at not in seen and len(seen) < _MOST_PAGES:
            seen.add(at)
            stream.seek(at)
            tags.load(stream)
            at = tags.next
            if int(tags.get(_SUBFILE, 0)) & 1:  # a smaller copy of another page
                continue
            yield (
                int(tags[_HEIGHT]), int(tags[_WIDTH]), _numbers(tags.get(_BITS, 1)),
                _numbers(tags.get(_FORMAT, 1))[0], int(tags.get(_PHOTOMETRIC, 1)), int(tags.get(_SAMPLES, 1)),
                _numbers(tags.get(_EXTRA, ())), int(tags.get(_TURN, 1)),
            )  # fmt: skip


def _numbers(value: Any) -> tuple[int, ...]:
    return tuple(map(int, value if isinstance(value, tuple) else (value,)))


def check_tifffile(file: Path, tiff: Tiff) -> None:
    """Raise DataError where tifffile is not installed."""
    if tifffile is None:
        raise DataError(
            f"image {file} is a TIFF file of {tiff.channels} × {tiff.bits} bits a pixel, which Pillow does not read as "
            "it is meant; install tifffile, which does: pip install tifffile imagecodecs"
        )


def read_tiff(file: Path, tiff: Tiff | None) -> np.ndarray[Any, Any]:
    """The pixels as they are stored, (C, H, W).

    Raises:
        Exception: what tifffile raises where it is no whole image.
        DataError: tifffile, or a package that it needs for this file, is not installed.
    """
    if tiff is None:
        raise ValueError("its tags cannot be read")
    check_tifffile(file, tiff)
    try:
        with tifffile.TiffFile(file) as opened:
            pages = [page for page in opened.pages if not page.is_reduced]
            alike = [page for page in pages if (page.shape, page.dtype) == (pages[0].shape, pages[0].dtype)]
            planes = [_planes(page, tiff) for page in alike[: tiff.pages]]
    except Exception as error:
        if "imagecodecs" not in str(error):
            raise
        raise DataError(f"image {file}: {error}; install it: pip install imagecodecs") from error
    return np.concatenate(planes)


def _planes(page: Any, tiff: Tiff) -> np.ndarray[Any, Any]:
    """A page as (samples, H, W)."""
    values = np.asarray(page.asarray())
    if page.photometric == _WHITE_IS_ZERO and values.dtype.kind == "u":
        values = np.iinfo(values.dtype).max - values
    if values.ndim == 2:
        return values[None]
    planes = values if page.planarconfig == 2 else values.transpose(2, 0, 1)
    return planes[: tiff.samples]
