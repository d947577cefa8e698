"""Writing records: a record is marked once it is safe on the disk."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from reborn_nas.data.cache.records import DONE
from reborn_nas.data.files.layout import Images, Layout
from reborn_nas.data.statistics import image_sums
from reborn_nas.errors import DataError, blame_machine

__all__ = ["check_disk", "free_bytes", "in_words", "read_marks", "write_records"]

SAFE_SECONDS = 5.0
"""What is written is made safe and marked this often: a killed writer loses no more."""

SAFE_BYTES = 256 << 20
"""And after so many bytes, as what the disk has not taken yet stays in memory."""

REPORT_SECONDS = 30.0

_LEFT_FREE = 64 << 20
"""Bytes of a disk that are not filled."""

_log = logging.getLogger(__name__)

Table = np.ndarray[Any, Any]


def read_marks(path: Path, count: int) -> Table:
    """The marks (count,) that lie in a file; 0 for those that it has not."""
    marks = np.zeros(count, np.uint64)
    try:
        found = np.fromfile(path, "<u8", count)
    except (FileNotFoundError, NotADirectoryError):
        return marks
    marks[: len(found)] = found
    return marks


def in_words(count: float) -> str:
    """Bytes as people read them: `4.2 GiB`, `740 MiB`, or `0.3 MiB`."""
    mib = count / 2**20
    return f"{mib / 1024:.1f} GiB" if mib >= 1024 else f"{mib:.0f} MiB" if mib >= 10 else f"{mib:.1f} MiB"


def free_bytes(folder: Path) -> int:
    """Bytes that may be written on the disk on which `folder` lies, or will."""
    there = next((place for place in (folder, *folder.parents) if place.exists()), Path.cwd())
    return max(0, shutil.disk_usage(there).free - _LEFT_FREE)


def check_disk(folder: Path, needed: int, what: str) -> None:
    """Refuse to begin what the disk cannot hold.

    Raises:
        DataError: with the bytes that are needed and free.
    """
    free = free_bytes(folder)
    if needed > free:
        raise DataError(
            f"{what} take {in_words(needed)} more on the disk of {folder}, which has "
            f"{in_words(free)} free; make room (`reborn-nas cache` lists what is cached), name a folder on "
            "another disk with --cache-dir, or give a smaller --image-size or a --fraction"
        )


def write_records(
    raw: Path, images: Images, headers: Table, rows: Table, layout: Layout, marks: Table
) -> None:
    """Decode the images `rows` into their records, and mark them in `marks` and in the file beside `raw`.

    Args:
        raw: the file of records; record k is image k.
        headers: a row of `HEADER` for each image.
        rows: which are missing.
        marks: uint64, of all records; changed in place.

    Raises:
        BrokenImagesError: images that cannot be read; all others are written.
        MachineError: the disk is full or fails; what was marked stays.
    """
    began = reported = safe = time.monotonic()
    handle, sums, table = (
        os.open(raw.with_suffix(suffix), os.O_WRONLY | os.O_CREAT, 0o666)
        for suffix in (".raw", ".sums", ".marks")
    )
    fresh: list[tuple[int, int]] = []
    own = threading.local()

    def one(k: int) -> int:
        if not hasattr(own, "buffer"):  # fresh memory for every image would cost as much as the copy
            own.buffer = np.empty(layout.shape, layout.dtype)
        row = int(rows[k])
        np.copyto(own.buffer, images.pixels(row, headers[row], layout))
        data = memoryview(own.buffer.reshape(-1).data).cast("B")
        _write_at(handle, data, row * layout.bytes)
        check = zlib.crc32(data)
        known = image_sums(own.buffer[None]).astype("<u8").tobytes()
        known += zlib.crc32(known, check).to_bytes(8, "little")
        _write_at(sums, memoryview(known), row * len(known))
        return check

    def mark() -> None:
        if fresh:
            os.fsync(handle)
            os.fsync(sums)
            places, checks = np.array(fresh, np.uint64).T
            marks[places] = checks | np.uint64(DONE)
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
        for opened in (handle, sums, table):
            os.close(opened)
    seconds = time.monotonic() - began
    _log.warning("%s images decoded in %.1f s", f"{done:,}", seconds)


def _write_at(handle: int, data: memoryview, at: int) -> None:
    while data:
        count = os.pwrite(handle, data, at)
        data, at = data[count:], at + count
