"""Image files → one uint8 tensor, in threads and in bounded memory."""

from __future__ import annotations

import io
import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps

from reborn_nas.errors import DataError, blame_machine

if TYPE_CHECKING:
    from PIL import Image

MEMORY_SHARE = 0.6
"""Images may take this share of the host memory that is free."""

_GREY = frozenset(("1", "L", "I", "I;16", "I;16B", "I;16L", "I;16N", "F"))
_DEEP = frozenset(("I", "I;16", "I;16B", "I;16L", "I;16N", "F"))  # more than 8 bits a pixel
_TURNED = frozenset((5, 6, 7, 8))  # EXIF orientations that swap width and height
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
_PNG = b"\x89PNG\r\n\x1a\n"
_BATCH = 64
_NAMED = 10

T = TypeVar("T")


class BrokenImagesError(DataError):
    """Images that cannot be read.

    Args:
        broken: each file and why it cannot be read, in order.
    """

    def __init__(self, broken: Sequence[tuple[Path, str]]) -> None:
        self.broken = tuple(broken)
        self.files = tuple(file for file, _ in broken)
        file, reason = broken[0]
        if len(broken) == 1:
            super().__init__(
                f"image {file} cannot be read ({reason}); repair it, take it out of the folder, or give --skip-broken"
            )
            return
        lines = [f"\n  - {file} ({reason})" for file, reason in broken[:_NAMED]]
        lines += [f"\n  - and {len(broken) - _NAMED} more"] * (len(broken) > _NAMED)
        super().__init__(
            f"{len(broken)} images cannot be read; repair them, take them out of the folder, or give --skip-broken:"
            + "".join(lines)
        )


def decode(files: Sequence[Path], name: str, size: tuple[int, int] | None, notes: list[str]) -> torch.Tensor:
    """The images of `files` as uint8 (N, C, H, W).

    Two passes: headers first, for the size and the channels, then the pixels into a tensor allocated once. Images of
    more than 8 bits are read once more in between, for the range of their values.

    Args:
        name: of the data set, for messages.
        size: (height, width); without it the most common one.
        notes: what was decided is appended here.

    Raises:
        BrokenImagesError: files that are no whole image, all of them.
        DataError: more pixels than the memory holds.
    """
    headers = _in_threads(files, _header)
    counts = Counter((header.height, header.width) for header in headers)
    channels = 1 if all(header.mode in _GREY for header in headers) else 3
    if size is None:
        # the most common; of several, the largest, so that the order of the files does not matter
        size = max(counts, key=lambda s: (counts[s], s[0] * s[1], s))
    H, W = size
    others = len(files) - counts[size]
    if others:
        notes.append(
            f"{others} of {len(files)} images are not {H}×{W}: scaled to cover it and cut in the middle"
        )
    odd = sum(header.odd for header in headers)
    if odd:
        notes.append(f"{odd} images have broken metadata, which was not read; their pixels are whole")
    several = sum(header.several for header in headers)
    if several:
        notes.append(f"{several} files hold several images or pages, of which the first is read")
    wide = sum(header.wide for header in headers)
    if wide:
        notes.append(f"{wide} colour images have 16 bits a channel, of which the upper 8 are read")
    scale = _deep_range([file for file, header in zip(files, headers) if header.mode in _DEEP], notes)
    _check_memory(name, len(files), channels, H, W)
    out = torch.empty(len(files), channels, H, W, dtype=torch.uint8)
    rows = out.numpy()
    places = {file: k for k, file in enumerate(files)}

    def fill(file: Path) -> None:
        rows[places[file]] = _pixels(file, channels, H, W, scale)

    _in_threads(files, fill)
    return out


class _Header(NamedTuple):
    """Height and width as seen, and what is to be reported.

    Args:
        mode: Pillow's.
        odd: there is metadata that cannot be read.
        several: there are more images in the file.
        wide: Pillow keeps 8 of 16 bits of each channel.
    """

    height: int
    width: int
    mode: str
    odd: bool
    several: bool
    wide: bool


def _header(file: Path) -> _Header:
    """The header of an image; its pixels are not read."""

    def read(image: Image.Image) -> _Header:
        wide = image.mode not in _DEEP and ";16" in str(getattr(image, "tile", ""))  # gone once it is loaded
        width, height = image.size
        turn = _orientation(image)
        if turn in _TURNED:
            width, height = height, width
        several = image.format != "MPO" and getattr(image, "n_frames", 1) > 1  # phones add a small copy
        return _Header(height, width, image.mode, turn is None, several, wide)

    header, stripped = _reading(file, read)
    return header._replace(odd=header.odd or stripped)


def _orientation(image: Image.Image) -> int | None:
    """EXIF's number of the orientation, 1 where there is none; None where the metadata cannot be read."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
        return found if isinstance(found, int) else 1
    except Exception as error:
        blame_machine(error, "an image")
        return None


def _pixels(
    file: Path, channels: int, H: int, W: int, scale: tuple[float, float] = (0.0, 255.0)
) -> np.ndarray[Any, Any]:
    """One image as uint8 (C, H, W).

    Args:
        scale: the values of deep images that become 0 and 255.
    """

    def read(image: Image.Image) -> np.ndarray[Any, Any]:
        mode = "L" if channels == 1 else "RGB"
        if image.mode not in _DEEP and min(image.size) > 4 * max(H, W):
            image.draft(mode, (2 * W, 2 * H))  # a JPEG decoder can halve cheaply; the rest is resampled below
        turn = _UPRIGHT.get(_orientation(image) or 1)
        upright = image if turn is None else image.transpose(Image.Transpose[turn])
        if upright.mode in _DEEP:
            low, high = scale
            values = (np.asarray(upright).astype(np.float64) - low) * (255 / (high - low))
            upright = Image.fromarray(values.clip(0, 255).round().astype(np.uint8))
        elif upright.mode == "P" and "transparency" in upright.info:
            upright = upright.convert("RGBA")
        plain = upright.convert(mode)
        if plain.size != (W, H):
            plain = ImageOps.fit(plain, (W, H), method=Image.Resampling.BILINEAR)
        return np.asarray(plain)

    pixels, _ = _reading(file, read)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _deep_range(files: Sequence[Path], notes: list[str]) -> tuple[float, float]:
    """The values that become 0 and 255 in images of more than 8 bits: one range for all of them.

    Whole numbers: 0 to the largest value of as many bits as are used, 8 at least. Fractions: 0 to 1 or 0 to 255 where
    all lie in it. Else from the smallest to the largest.
    """
    if not files:
        return 0.0, 255.0

    def span(image: Image.Image) -> tuple[float, float, bool]:
        values = np.asarray(image)
        low, high = float(values.min()), float(values.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("it holds values that are not finite")
        return low, high, values.dtype.kind == "f"

    found = _in_threads(files, lambda file: _reading(file, span)[0])
    low, high = min(each[0] for each in found), max(each[1] for each in found)
    if low >= 0 and not any(each[2] for each in found):
        low, high = 0.0, float((1 << max(8, int(high).bit_length())) - 1)
    elif low >= 0 and high <= 255:
        low, high = 0.0, 1.0 if high <= 1 else 255.0
    elif low == high:
        high = low + 1
    notes.append(
        f"{len(files)} images have more than 8 bits a pixel: {low:g} … {high:g} become 0 … 255 in all of them"
    )
    return low, high


def _reading(file: Path, read: Callable[[Image.Image], T]) -> tuple[T, bool]:
    """What `read` returns of an image, and whether its metadata had to be left out for that.

    Raises:
        BrokenImagesError: it cannot be read.
    """
    try:
        try:
            with Image.open(file) as image:
                return read(image), False
        except Exception as error:
            blame_machine(error, f"image {file}")
            bare = _without_metadata(file)
            if bare is None:
                raise
            with suppress(Exception), Image.open(bare) as image:
                return read(image), True
            raise
    except Exception as error:
        blame_machine(error, f"image {file}")
        raise BrokenImagesError([(file, str(error) or type(error).__name__)]) from error


def _without_metadata(file: Path) -> io.BytesIO | None:
    """A PNG file with nothing but what its pixels need (PNG specification, 5.4: critical chunks, and tRNS)."""
    data = file.read_bytes()
    if not data.startswith(_PNG):
        return None
    kept, at = [_PNG], len(_PNG)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        if kind[:1].isupper() or kind == b"tRNS":
            kept.append(data[at:end])
        at = end
    return io.BytesIO(b"".join(kept))


def _in_threads(files: Sequence[Path], work: Callable[[Path], T]) -> list[T]:
    """`work` on every file, results in order; PIL decodes outside of the interpreter's lock.

    Raises:
        BrokenImagesError: all files that cannot be read, after all have been tried. Another error is raised at once,
            and what has not begun is not begun.
    """
    batches = [files[k : k + _BATCH] for k in range(0, len(files), _BATCH)]
    broken: list[tuple[Path, str]] = []

    def each(batch: Sequence[Path]) -> list[T | BrokenImagesError]:
        results: list[T | BrokenImagesError] = []
        for file in batch:
            try:
                results.append(work(file))
            except BrokenImagesError as error:
                results.append(error)
        return results

    found: list[T] = []
    pool = ThreadPoolExecutor(min(16, os.cpu_count() or 1))
    try:
        for batch in pool.map(each, batches):
            for result in batch:
                if isinstance(result, BrokenImagesError):
                    broken += result.broken
                else:
                    found.append(result)
    finally:
        pool.shutdown(cancel_futures=True)
    if broken:
        raise BrokenImagesError(broken)
    return found


def _check_memory(name: str, count: int, channels: int, H: int, W: int) -> None:
    needed = count * channels * H * W
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not everywhere
        return
    if needed > MEMORY_SHARE * free:
        raise DataError(
            f"data set {name!r}: {count} images of {channels}×{H}×{W} take {needed / 2**30:.1f} GiB, and "
            f"{free / 2**30:.1f} GiB of memory are free; give a smaller --image-size or a --fraction"
        )
