"""Opening image files and arrays: what cannot be read is named, all of it; a PNG's broken metadata does not count."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from reborn_nas.errors import DataError, blame_machine
from reborn_nas.machine import available_cores

__all__ = ["BATCH", "MOST_CHANNELS", "BrokenImagesError", "in_threads", "read_array", "reading", "vetted"]

_PNG = b"\x89PNG\r\n\x1a\n"
BATCH = 64
"""Files that one thread works on before it takes the next ones."""
AHEAD = 4
"""Batches a thread that are begun before the first is done: results do not pile up."""
_NAMED = 10

MOST_CHANNELS = 16

T = TypeVar("T")


class BrokenImagesError(DataError):
    """Images that cannot be read.

    Args:
        broken: each file, or what else an image is named by, and why it cannot be read, in order.
    """

    def __init__(self, broken: Sequence[tuple[Path | str, str]]) -> None:
        self.broken = tuple(broken)
        self.files = tuple(file for file, _ in broken)
        file, reason = broken[0]
        if len(broken) == 1:
            super().__init__(
                f"image {file} cannot be read ({reason}); repair it, take it out, or give --skip-broken"
            )
            return
        lines = [f"\n  - {file} ({reason})" for file, reason in broken[:_NAMED]]
        lines += [f"\n  - and {len(broken) - _NAMED} more"] * (len(broken) > _NAMED)
        super().__init__(
            f"{len(broken)} images cannot be read; repair them, take them out, or give --skip-broken:"
            + "".join(lines)
        )


def reading(file: Path, read: Callable[[Image.Image], T]) -> tuple[T, bool]:
    """What `read` returns of an image, and whether its metadata had to be left out for that.

    Raises:
        BrokenImagesError: it cannot be read.
    """

    def attempt() -> tuple[T, bool]:
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

    return vetted(file, attempt)


def vetted(file: Path, read: Callable[[], T]) -> T:
    """What `read` returns; whatever it raises, but for what is said to be something else, is the file's fault.

    Raises:
        BrokenImagesError: it cannot be read.
    """
    try:
        return read()
    except DataError:
        raise
    except Exception as error:
        blame_machine(error, f"image {file}")
        raise BrokenImagesError([(file, str(error) or type(error).__name__)]) from error


def read_array(file: Path) -> np.ndarray[Any, Any]:
    """The array as (H, W, C), its values not read yet.

    Two axes are one channel. Of three, the last are the channels if there are at most 16, else the first.

    Raises:
        BrokenImagesError: it is not such an array.
    """
    return vetted(file, lambda: _array(file))


def _array(file: Path) -> np.ndarray[Any, Any]:
    array = np.load(file, mmap_mode="r", allow_pickle=False)
    if array.dtype.kind not in "uif":
        raise ValueError(f"its values are {array.dtype}; whole numbers or fractions are read")
    if array.ndim == 2:
        array = array[:, :, None]
    elif array.ndim == 3 and array.shape[2] > MOST_CHANNELS >= array.shape[0]:
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or 0 in array.shape or array.shape[2] > MOST_CHANNELS:
        raise ValueError(
            f"its shape is {array.shape}; (H, W), (H, W, C) and (C, H, W) are read, C at most {MOST_CHANNELS}"
        )
    return array


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


def in_threads(count: int, work: Callable[[int], T]) -> Iterator[list[tuple[int, T]]]:
    """`work` on the numbers 0 … count − 1, in threads; PIL decodes outside of the interpreter's lock.

    Yields:
        A batch of numbers with their results at a time, in order, without those whose image is broken.

    Raises:
        BrokenImagesError: all files that cannot be read, after all have been tried. Another error is raised at once,
            and what has not begun is not begun.
    """
    broken: list[tuple[Path | str, str]] = []

    def each(first: int) -> list[tuple[int, T | BrokenImagesError]]:
        results: list[tuple[int, T | BrokenImagesError]] = []
        for number in range(first, min(first + BATCH, count)):
            try:
                results.append((number, work(number)))
            except BrokenImagesError as error:
                results.append((number, error))
        return results

    threads = min(16, available_cores())
    pool = ThreadPoolExecutor(threads)
    try:
        waiting: deque[Future[list[tuple[int, T | BrokenImagesError]]]] = deque()
        firsts = iter(range(0, count, BATCH))
        while True:
            waiting.extend(
                pool.submit(each, first) for first in islice(firsts, AHEAD * threads - len(waiting))
            )
            if not waiting:
                break
            results = waiting.popleft().result()
            good = []
            for number, result in results:
                if isinstance(result, BrokenImagesError):
                    broken += result.broken
                else:
                    good.append((number, result))
            yield good
    finally:
        pool.shutdown(cancel_futures=True)
    if broken:
        raise BrokenImagesError(broken)
