"""Writing records: a record is marked once it is safe on the disk."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from reborn_nas.data.cache.records import DONE
from reborn_nas.data.files.headers import Layout
from reborn_nas.errors import DataError, blame_machine

__all__ = ["Images", "check_disk", "in_words", "read_marks", "write_records"]

SAFE_SECONDS = 5.0
"""What is written is made safe and marked this often: a killed writer loses no more."""

SAFE_BYTES = 256 << 20
"""And after so many bytes, as what the disk has not taken yet stays in memory."""

REPORT_SECONDS = 30.0

_LEFT_FREE = 64 << 20
"""Bytes of a disk that are not filled."""

_log = logging.getLogger(__name__)

Table = np.ndarray[Any, Any]
T = TypeVar("T")


class Images(Protocol):
    """Images that can be decoded one by one, in a fixed order; a row is the number of one.

    Args:
        source: where they come from, for messages.
        key: hex digest of what they are known by.
    """

    source: str
    key: str

    def __len__(self) -> int: ...

    def settle(
        self, rows: Table, headers: Table, size: tuple[int, int] | None, notes: list[str], resize: str
    ) -> Layout:
        """The layout of the images `rows`, as `headers.settle` decides it; rows of `headers` are filled in."""

    def each(self, count: int, work: Callable[[int], T]) -> Iterator[list[tuple[int, T]]]:
        """`work` on 0 … count − 1: a batch of numbers with their results at a time, as `opening.in_threads` does it."""

    def pixels(self, row: int, layout: Layout) -> Table:
        """One image as uint8 (C, H, W)."""


def read_marks(path: Path, count: int) -> Table:
    """The marks (count,) that lie in a file; 0 for those that it has not."""
    marks = np.zeros(count, np.uint64)
    try:
        found = np.fromfile(path, "<u8", count)
    except FileNotFoundError:
        return marks
    marks[: len(found)] = found
    return marks


def in_words(count: float) -> str:
    """Bytes as people read them: `4.2 GiB`, `740 MiB`, or `0.3 MiB`."""
    mib = count / 2**20
    return f"{mib / 1024:.1f} GiB" if mib >= 1024 else f"{mib:.0f} MiB" if mib >= 10 else f"{mib:.1f} MiB"


def check_disk(folder: Path, needed: int, what: str) -> None:
    """Refuse to begin what the disk cannot hold.

    Raises:
        DataError: with the bytes that are needed and free.
    """
    free = shutil.disk_usage(folder).free - _LEFT_FREE
    if needed > free:
        raise DataError(
            f"{what} take {in_words(needed)} more on the disk of {folder}, which has "
            f"{in_words(max(0, free))} free; make room (`reborn-nas cache` lists what is cached), name a folder on "
            "another disk with --cache-dir, or give a smaller --image-size or a --fraction"
        )


def write_records(raw: Path, images: Images, rows: Table, layout: Layout, marks: Table) -> None:
    """Decode the images `rows` into their records, and mark them in `marks` and in the file beside `raw`.

    Args:
        raw: the file of records; record k is image k.
        rows: which are missing.
        marks: uint64, of all records; changed in place.

    Raises:
        BrokenImagesError: images that cannot be read; all others are written.
        MachineError: the disk is full or fails; what was marked stays.
    """
    began = reported = safe = time.monotonic()
    handle = os.open(raw, os.O_WRONLY | os.O_CREAT, 0o666)
    table = os.open(raw.with_suffix(".marks"), os.O_WRONLY | os.O_CREAT, 0o666)
    fresh: list[tuple[int, int]] = []
    own = threading.local()

    def one(k: int) -> int:
        if not hasattr(own, "buffer"):  # fresh memory for every image would cost as much as the copy
            own.buffer = np.empty(layout.shape, np.uint8)
        np.copyto(own.buffer, images.pixels(int(rows[k]), layout))
        data = memoryview(own.buffer.reshape(-1).data)
        _write_at(handle, data, int(rows[k]) * layout.bytes)
        return zlib.crc32(data)

    def mark() -> None:
        if fresh:
            os.fsync(handle)
            places, sums = np.array(fresh, np.uint64).T
            marks[places] = sums | np.uint64(DONE)
            first, last = int(places.min()), int(places.max()) + 1
            _write_at(table, memoryview(marks[first:last].astype("<u8").data).cast("B"), 8 * first)
            fresh.clear()

    done = 0
    try:
        try:
            for results in images.each(len(rows), one):
                fresh += [(int(rows[k]), crc) for k, crc in results]
                done += len(results)
                now = time.monotonic()
                if now - safe > SAFE_SECONDS or len(fresh) * layout.bytes > SAFE_BYTES:
                    mark()
                    safe = now
                if now - reported > REPORT_SECONDS:
                    left = (now - began) * (len(rows) - done) / max(1, done)
                    _log.warning(
                        "%s of %s images decoded, about %.0f s left", f"{done:,}", f"{len(rows):,}", left
                    )
                    reported = now
        finally:
            mark()
            os.fsync(table)
    except OSError as error:
        blame_machine(error, f"cache {raw}")
        raise
    finally:
        os.close(handle)
        os.close(table)
    seconds = time.monotonic() - began
    _log.warning("%s images decoded in %.1f s", f"{done:,}", seconds)


def _write_at(handle: int, data: memoryview, at: int) -> None:
    while data:
        count = os.pwrite(handle, data, at)
        data, at = data[count:], at + count
