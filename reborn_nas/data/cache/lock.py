"""Locks between processes that end with their holder, however it ends."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: no locks; writers then repeat each other's work, to the same bytes
    fcntl = None  # type: ignore[assignment]

__all__ = ["is_held", "locked", "shared", "unused"]

_STEP = 0.2


@contextlib.contextmanager
def locked(path: Path, waiting: Callable[[float], None]) -> Iterator[None]:
    """Alone inside, among all processes that ask for the same `path`.

    Args:
        waiting: called again and again with the seconds so far, while another process is inside.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    began = time.monotonic()
    try:
        while not _take(file, exclusive=True):
            waiting(time.monotonic() - began)
            time.sleep(_STEP)
        yield
    finally:
        os.close(file)


def shared(path: Path) -> int:
    """A file handle that shows others that `path` is in use, until it is closed.

    Raises:
        OSError: there is no such file and none can be made.
    """
    while True:
        try:
            file = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if _take(file, exclusive=False) and _is_at(file, path):
            return file
        os.close(file)  # it is being removed
        time.sleep(_STEP)


@contextlib.contextmanager
def unused(path: Path) -> Iterator[bool]:
    """Whether no process uses what `path` guards; if so, none begins to inside."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        yield True
        return
    try:
        yield _take(file, exclusive=True)
    finally:
        os.close(file)


def is_held(path: Path) -> bool:
    """Whether a process uses or writes what `path` guards."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _take(file, exclusive=True)
    finally:
        os.close(file)


def _take(file: int, *, exclusive: bool) -> bool:
    """Whether the lock is ours now; on a file system without locks it always is."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _is_at(file: int, path: Path) -> bool:
    """Whether the open file still lies at `path`."""
    with contextlib.suppress(OSError):
        here, there = os.fstat(file), os.stat(path)
        return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
    return False
