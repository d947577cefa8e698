"""`Records`: images of one shape in a file, read at random by `preadv` from several threads."""

from __future__ import annotations

import contextlib
import os
import weakref
import zlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reborn_nas.data.statistics import Pixels
from reborn_nas.errors import DataError

__all__ = ["DONE", "THREADS", "Records"]

THREADS = 8
"""Readers of one process: a disk answers many questions at once faster than one after the other."""

RUN_BYTES = 8 << 20
"""Records that lie side by side are read at once, up to so many bytes."""

DONE = 1 << 32
"""A record's mark is this plus its CRC-32 once it is written, and 0 before."""

_pools: dict[int, tuple[ThreadPoolExecutor, ThreadPoolExecutor]] = {}


class Records:
    """Images (N, C, H, W) that lie in a file, each at a fixed place; indexed like the tensor of them.

    Each record's checksum is compared the first time that this object reads it.

    Args:
        path: the file of records.
        shape: (C, H, W) of one.
        rows: int64 (N,), the record of each image.
        marks: uint64, of all records of the file.
        mend: what to do about a record that is not what was written, for the message.
        in_use: a file handle that is closed with this object.
        kind: of the pixels, "uint8" or "uint16".

    Raises:
        DataError: at reading: a record that is not what was written, a file that has become shorter.
        OSError: at reading: what the disk answers.
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, int, int],
        rows: torch.Tensor,
        marks: np.ndarray[Any, Any],
        mend: str,
        in_use: int | None = None,
        kind: str = "uint8",
    ) -> None:
        self.path, self._rows, self._marks, self._mend = path, rows, marks, mend
        self.shape = torch.Size((len(rows), *shape))
        self.dtype: torch.dtype = getattr(torch, kind)
        self._bytes = int(np.prod(shape)) * self.dtype.itemsize
        self._seen = np.zeros(len(marks), bool)
        self._file = os.open(path, os.O_RDONLY)
        with contextlib.suppress(AttributeError, OSError):  # not on every system
            os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_RANDOM)
        weakref.finalize(self, _close, self._file, in_use)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        """Bytes of the images, on disk."""
        return len(self) * self._bytes

    def __getitem__(self, rows: torch.Tensor | slice) -> torch.Tensor:
        """The images `rows`, an int64 tensor (n,), ascending or not, or a slice: (n, C, H, W)."""
        wanted = torch.arange(len(self))[rows] if isinstance(rows, slice) else rows
        return self.read(wanted)

    def known(self) -> Pixels:
        """What is known of these images since they were written; none of them is read."""
        rows = self._rows.numpy()
        C, H, W = self.shape[1:]
        path, length = self.path.with_suffix(".sums"), 2 * C + 1  # the last is a checksum
        found = np.fromfile(path, "<u8", length * (int(rows.max()) + 1))
        if len(found) < length * (int(rows.max()) + 1):
            raise DataError(f"the cache {path} is shorter than its marks: {self._mend}")
        sums = found.reshape(-1, length)[rows]
        checks = (self._marks[rows] & np.uint64(DONE - 1)).astype(np.uint32)
        whole = np.ascontiguousarray(sums[:, :-1])
        for line, check, expected in zip(whole, checks.tolist(), sums[:, -1].tolist()):
            if zlib.crc32(line.data, check) != expected:
                raise DataError(
                    f"the cache {path} is not what was written (its checksum differs): {self._mend}"
                )
        return Pixels(whole.reshape(-1, C, 2), checks, H * W, torch.iinfo(self.dtype).max)

    def read(self, rows: torch.Tensor, *, pinned: bool = False) -> torch.Tensor:
        """The same, into page-locked memory where `pinned`."""
        out = torch.empty(len(rows), *self.shape[1:], dtype=self.dtype, pin_memory=pinned)
        places = self._rows[rows].numpy()
        target = memoryview(out.numpy().reshape(-1).data).cast("B")
        tasks = list(_runs(places, max(1, RUN_BYTES // self._bytes)))
        if len(tasks) == 1:
            self._fill(target, places, tasks)
            return out
        share = -(-len(tasks) // THREADS)
        readers, _ = _pool()
        parts = [tasks[k : k + share] for k in range(0, len(tasks), share)]
        for done in [readers.submit(self._fill, target, places, part) for part in parts]:
            done.result()
        return out

    def begin(self, rows: torch.Tensor, *, pinned: bool = False) -> Future[torch.Tensor]:
        """`read`, beside what the caller does meanwhile."""
        _, starter = _pool()
        return starter.submit(self.read, rows, pinned=pinned)

    def _fill(self, target: memoryview, places: np.ndarray[Any, Any], runs: list[tuple[int, int]]) -> None:
        """Read the runs of images [first, last) into their places of `target`."""
        size = self._bytes
        for first, last in runs:
            view = target[first * size : last * size]
            self._read_at(view, int(places[first]) * size)
            for k in range(first, last):
                record = int(places[k])
                if not self._seen[record]:
                    if DONE | zlib.crc32(target[k * size : (k + 1) * size]) != int(self._marks[record]):
                        raise DataError(
                            f"image {record} in the cache {self.path} is not what was written (its checksum differs): "
                            f"{self._mend}"
                        )
                    self._seen[record] = True

    def _read_at(self, view: memoryview, at: int) -> None:
        try:
            while view:
                count = os.preadv(self._file, [view], at)
                if count == 0:
                    raise DataError(f"the cache {self.path} has become shorter: {self._mend}")
                view, at = view[count:], at + count
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error


def _runs(places: np.ndarray[Any, Any], most: int) -> Iterator[tuple[int, int]]:
    """[first, last) of stretches whose records lie side by side in this order, at most `most` records each."""
    if not len(places):
        return
    breaks = np.flatnonzero(np.diff(places) != 1) + 1
    for first, last in zip([0, *breaks.tolist()], [*breaks.tolist(), len(places)]):
        for start in range(first, last, most):
            yield start, min(start + most, last)


def _close(*handles: int | None) -> None:
    for handle in handles:
        if handle is not None:
            os.close(handle)


def _pool() -> tuple[ThreadPoolExecutor, ThreadPoolExecutor]:
    """The readers of this process, and a thread that waits for them; a forked process has its own."""
    own = os.getpid()
    if own not in _pools:
        _pools.clear()
        _pools[own] = (
            ThreadPoolExecutor(THREADS, thread_name_prefix="records"),
            ThreadPoolExecutor(1, thread_name_prefix="ahead"),
        )
    return _pools[own]
