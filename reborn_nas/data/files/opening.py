"""Opening image files: what cannot be read is named, all of it; a PNG's broken metadata does not count."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TypeVar

from PIL import Image

from reborn_nas.errors import DataError, blame_machine
from reborn_nas.machine import available_cores

__all__ = ["BATCH", "BrokenImagesError", "in_threads", "reading"]

_PNG = b"\x89PNG\r\n\x1a\n"
BATCH = 64
"""Files that one thread works on before it takes the next ones."""
AHEAD = 4
"""Batches a thread that are begun before the first is done: results do not pile up."""
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


def reading(file: Path, read: Callable[[Image.Image], T]) -> tuple[T, bool]:
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


def in_threads(count: int, work: Callable[[int], T]) -> Iterator[list[tuple[int, T]]]:
    """`work` on the numbers 0 … count − 1, in threads; PIL decodes outside of the interpreter's lock.

    Yields:
        A batch of numbers with their results at a time, in order, without those whose image is broken.

    Raises:
        BrokenImagesError: all files that cannot be read, after all have been tried. Another error is raised at once,
            and what has not begun is not begun.
    """
    broken: list[tuple[Path, str]] = []

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
