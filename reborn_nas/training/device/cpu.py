"""The CPU: threads of a process, and freed memory that is kept for the next step."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from reborn_nas.machine import available_cores


def threads_each(workers: int) -> int:
    """CPU threads of one of `workers` processes: an equal share of the cores, at least one."""
    return max(1, available_cores() // max(1, workers))


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Compute with `count` CPU threads inside; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
"""Parameters of mallopt, <malloc.h>."""
_LARGEST = 32 << 20
"""Bytes up to which glibc's own rule learns to keep blocks, twice as much of them at the heap's end."""
_SETTINGS = ("GLIBC_TUNABLES", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")


@contextmanager
def kept_heap(device: torch.device | str = "cpu") -> Iterator[None]:
    """What is freed inside stays with the process, and goes back to the system at the end.

    A step frees its maps in the backward pass; glibc returns large ones to the system, and the next step fetches them
    again, zeroed, at 4 KiB a fault. Kept they are there: a training on a CPU takes .75 to 1 times as long, its peak
    of memory stays what it was, and less is left behind than without. Nothing happens on another device, with another C
    library, or where the environment sets glibc's allocator itself.
    """
    library = _glibc() if torch.device(device).type == "cpu" else None
    if library is None:
        yield
        return
    library.mallopt(_MMAP_MAX, 0)
    library.mallopt(_TRIM_THRESHOLD, -1)  # never
    try:
        yield
    finally:
        library.mallopt(_MMAP_MAX, 65536)  # its default
        library.mallopt(_MMAP_THRESHOLD, _LARGEST)
        library.mallopt(_TRIM_THRESHOLD, 2 * _LARGEST)
        library.malloc_trim(0)


def _glibc() -> Any:
    """The C library of this process if it is glibc and its allocator has no other settings, else None."""
    if any(name in os.environ for name in _SETTINGS):
        return None
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version, library.mallopt, library.malloc_trim  # noqa: B018
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return None
    library.malloc_trim.argtypes = [ctypes.c_size_t]
    return library
