"""Image files → one uint8 tensor, in threads and in bounded memory."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from reborn_nas.errors import DataError
from reborn_nas.faults import blame_machine

if TYPE_CHECKING:
    from PIL import Image

MEMORY_SHARE = 0.6
"""Images may take this share of the host memory that is free."""

_GREY = frozenset(("1", "L", "I", "I;16", "I;16B", "F"))
_DEEP = frozenset(("I", "I;16", "I;16B", "F"))  # more than 8 bits a pixel
_TURNED = frozenset((5, 6, 7, 8))  # EXIF orientations that swap width and height
_ORIENTATION = 0x0112
_BATCH = 64

T = TypeVar("T")


def decode(files: Sequence[Path], name: str, size: tuple[int, int] | None, notes: list[str]) -> torch.Tensor:
    """The images of `files` as uint8 (N, C, H, W).

    Two passes: headers first, for the size and the channels, then the pixels into a tensor allocated once.

    Args:
        name: of the data set, for messages.
        size: (height, width); without it the most common one.
        notes: what was decided is appended here.

    Raises:
        DataError: a file that is no whole image (named), or more pixels than the memory holds.
    """
    headers = _in_threads(files, _header)
    counts = Counter(header[:2] for header in headers)
    channels = 1 if all(grey for *_, grey in headers) else 3
    if size is None:
        # the most common; of several, the largest, so that the order of the files does not matter
        size = max(counts, key=lambda s: (counts[s], s[0] * s[1], s))
    H, W = size
    others = len(files) - counts[size]
    if others:
        notes.append(
            f"{others} of {len(files)} images are not {H}×{W}: scaled to cover it and cut in the middle"
        )
    _check_memory(name, len(files), channels, H, W)
    out = torch.empty(len(files), channels, H, W, dtype=torch.uint8)
    rows = out.numpy()
    places = {file: k for k, file in enumerate(files)}

    def fill(file: Path) -> None:
        rows[places[file]] = _pixels(file, channels, H, W)

    _in_threads(files, fill)
    return out


def _header(file: Path) -> tuple[int, int, bool]:
    """Height and width as seen, and whether it is grey; the pixels are not read."""
    with _open(file) as image:
        width, height = image.size
        if image.getexif().get(_ORIENTATION) in _TURNED:
            width, height = height, width
        return height, width, image.mode in _GREY


def _pixels(file: Path, channels: int, H: int, W: int) -> np.ndarray[Any, Any]:
    from PIL import Image, ImageOps

    with _open(file) as image:
        mode = "L" if channels == 1 else "RGB"
        if image.mode not in _DEEP and min(image.size) > 4 * max(H, W):
            image.draft(mode, (2 * W, 2 * H))  # a JPEG decoder can halve cheaply; the rest is resampled below
        upright = ImageOps.exif_transpose(image)
        if upright.mode in _DEEP:
            upright = _to_8_bits(upright)
        elif upright.mode == "P" and "transparency" in upright.info:
            upright = upright.convert("RGBA")
        plain = upright.convert(mode)
        if plain.size != (W, H):
            plain = ImageOps.fit(plain, (W, H), method=Image.Resampling.BILINEAR)
        pixels = np.asarray(plain)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _to_8_bits(image: Image.Image) -> Image.Image:
    """A deep grey image by its own type's range: PIL's convert("L") would clip all above 255 to white."""
    from PIL import Image

    values = np.asarray(image).astype(np.float64)
    top = 255.0 if values.max(initial=0) <= 255 else 65535.0
    return Image.fromarray((values.clip(0, top) * (255 / top)).round().astype(np.uint8))


class _open:
    """An image file being read; whatever goes wrong inside is told with the file's name."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __enter__(self) -> Image.Image:
        from PIL import Image

        try:
            self._image = Image.open(self.file)
        except Exception as error:
            blame_machine(error, f"image {self.file}")
            raise self._broken(error) from error
        return self._image

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._image.close()
        if isinstance(error, Exception) and not isinstance(error, DataError):
            blame_machine(error, f"image {self.file}")
            raise self._broken(error) from error

    def _broken(self, error: Exception) -> DataError:
        return DataError(
            f"image {self.file} cannot be read ({error}); repair it or take it out of the folder"
        )


def _in_threads(files: Sequence[Path], work: Callable[[Path], T]) -> list[T]:
    """`work` on every file, results in order; PIL decodes outside of the interpreter's lock.

    The first error in the order of the files is raised, and what has not begun is not begun.
    """
    batches = [files[k : k + _BATCH] for k in range(0, len(files), _BATCH)]

    def each(batch: Sequence[Path]) -> list[T]:
        return [work(file) for file in batch]

    pool = ThreadPoolExecutor(min(16, os.cpu_count() or 1))
    try:
        return [result for batch in pool.map(each, batches) for result in batch]
    finally:
        pool.shutdown(cancel_futures=True)


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
