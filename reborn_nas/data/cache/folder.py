"""`CachedFolder`: what is decoded of a folder of images, in files that several processes share.

A cache is a folder of its own. Its name and key are made of the names, sizes and times of all image files, so that
another state of the same folder is another cache. In it lie the files' headers; of each layout the records, one a file,
and their marks; and what was computed from them. A record counts once it is marked, and a file of records is only ever
filled in: a writer that is killed leaves what it marked, and the next one goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch

from reborn_nas.commands import command_line
from reborn_nas.data.cache.lock import is_held, locked, shared, unused
from reborn_nas.data.cache.records import Records
from reborn_nas.data.cache.write import check_disk, in_words, read_marks, write_records
from reborn_nas.data.files.headers import HEADER, Layout, settle
from reborn_nas.errors import DataError, blame_machine
from reborn_nas.files import write_atomic

__all__ = ["CacheEntry", "CachedFolder", "cache_root", "clean_cache", "list_caches"]

FORMAT = 1
"""Changes with the files of a cache, and with what pixels the same image files become."""

_ABOUT, _HEADERS, _IN_USE, _WRITING = "cache.json", "headers.npy", "in-use", "writing"

WAIT_SECONDS = 30.0
"""How often a process that waits for another's decoding reports it."""

_log = logging.getLogger(__name__)


def cache_root(given: str | os.PathLike[str] | None = None) -> Path:
    """Where decoded images lie: `given`, else `$REBORN_NAS_CACHE`, else `~/.cache/reborn-nas/decoded`."""
    return Path(given or os.environ.get("REBORN_NAS_CACHE") or "~/.cache/reborn-nas/decoded").expanduser()


class CachedFolder:
    """The cache of a folder of images. Nothing is written before `records`.

    Args:
        root: where caches lie.
        source: the folder.
        files: all its image files, in a fixed order; the numbers of rows below are theirs.
    """

    def __init__(self, root: Path, source: Path, files: Sequence[str | Path]) -> None:
        self.root, self.source, self.files = root, source, files
        self.key = _key(source, files)
        self.path = root / f"{_plain(source)}-{self.key[:16]}"
        self._headers: np.ndarray[Any, Any] | None = None
        self._read = 0

    def settle(
        self, rows: np.ndarray[Any, Any], size: tuple[int, int] | None, notes: list[str], resize: str
    ) -> Layout:
        """The layout of the files `rows`, as `headers.settle` decides it; cached headers are not read again."""
        if self._headers is None:
            self._headers = self._cached_headers()
        own = self._headers[rows]
        try:
            return settle([self.files[k] for k in rows], own, size, notes, resize)
        finally:
            self._headers[rows] = own

    def missing(self, rows: np.ndarray[Any, Any], layout: Layout) -> np.ndarray[Any, Any]:
        """Those of the files `rows` that have no record yet."""
        return rows[self._marks(layout)[rows] == 0]

    def records(self, rows: np.ndarray[Any, Any], layout: Layout) -> Records:
        """The images of the files `rows`, decoded first where they are not yet.

        Raises:
            BrokenImagesError: files that are no whole image; all others are kept.
            DataError: the disk is too small, or the cache cannot be written.
        """
        with self._writable():
            in_use = shared(self.path / _IN_USE)
        try:
            if len(self.missing(rows, layout)):
                with self._writable():
                    self._write(rows, layout)
            raw = self._raw(layout)
            marks, size = self._marks(layout), raw.stat().st_size if raw.exists() else 0
            if size < (int(rows.max()) + 1) * layout.bytes:
                raise DataError(f"the cache {raw} is shorter than its marks: {self.mend}")
            return Records(raw, layout.shape, torch.from_numpy(rows), marks, self.mend, in_use)
        except BaseException:
            os.close(in_use)
            raise

    @property
    def mend(self) -> str:
        """The way out where a cache is damaged."""
        line = command_line("reborn-nas", "cache", "--cache-dir", self.root, "--clean", self.path.name)
        return f"`{line}` removes it, and the next run decodes again"

    def _write(self, rows: np.ndarray[Any, Any], layout: Layout) -> None:
        with locked(self.path / _WRITING, self._report_waiting(rows, layout)):
            missing = self.missing(rows, layout)
            if not len(missing):
                return  # another process has decoded them meanwhile
            needed = len(missing) * layout.bytes
            C, H, W = layout.shape
            check_disk(self.path, needed, f"{len(missing):,} images of {C}×{H}×{W}, decoded,")
            about = {"format": FORMAT, "key": self.key, "source": str(self.source), "files": len(self.files)}
            write_atomic(self.path / _ABOUT, json.dumps(about, indent=1))
            self._keep_headers()
            for other in list_caches(self.root):
                if other.source == str(self.source) and other.path != self.path:
                    _log.warning("%s is of another state of %s and is not used", other.path, self.source)
            _log.warning(
                "decoding %s images of %d×%d×%d once, into %s (%s, key %s)",
                f"{len(missing):,}", C, H, W, self.path, in_words(needed), self.key[:16],
            )  # fmt: skip
            write_records(self._raw(layout), self.files, missing, layout, self._marks(layout))

    def _report_waiting(self, rows: np.ndarray[Any, Any], layout: Layout) -> Callable[[float], None]:
        reported = -WAIT_SECONDS

        def waiting(seconds: float) -> None:
            nonlocal reported
            if seconds - reported >= WAIT_SECONDS:
                reported = seconds
                left = len(self.missing(rows, layout))
                _log.warning("another process decodes into %s; %s images are left", self.path, f"{left:,}")

        return waiting

    def _raw(self, layout: Layout) -> Path:
        return self.path / f"{layout.name}.raw"

    def _marks(self, layout: Layout) -> np.ndarray[Any, Any]:
        return read_marks(self._raw(layout).with_suffix(".marks"), len(self.files))

    def _cached_headers(self) -> np.ndarray[Any, Any]:
        with contextlib.suppress(OSError, ValueError):
            found = np.load(self.path / _HEADERS, allow_pickle=False)
            if found.shape == (len(self.files),) and found.dtype == HEADER:
                return np.array(found)
        return np.zeros(len(self.files), HEADER)

    def _keep_headers(self) -> None:
        if self._headers is not None:
            content = io.BytesIO()
            np.save(content, self._headers)
            write_atomic(self.path / _HEADERS, content.getvalue())

    @contextlib.contextmanager
    def _writable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            blame_machine(error, f"cache {self.path}")
            raise DataError(
                f"the cache {self.path} cannot be written ({error.strerror or error}); name another folder with "
                "--cache-dir or $REBORN_NAS_CACHE"
            ) from error


def _key(source: Path, files: Sequence[str | Path]) -> str:
    """Hex digest of what decides a cache: its format, Pillow's version, and each file's name, size and time."""
    digest = hashlib.sha256(f"{FORMAT}|{PIL.__version__}|{len(files)}".encode())
    prefix = len(os.fspath(source))
    for file in files:
        name = os.fspath(file)
        try:
            status = os.stat(name)
        except OSError as error:
            blame_machine(error, f"image {name}")
            raise DataError(f"image {name} cannot be read: {error.strerror or error}") from error
        digest.update(
            f"\n{name[prefix:]}\0{status.st_size}\0{status.st_mtime_ns}".encode("utf-8", "surrogateescape")
        )
    return digest.hexdigest()


def _plain(source: Path) -> str:
    """The folder's name, in letters that any file system and shell takes."""
    name = source.resolve().name
    return (
        "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name)[:40] or "images"
    )


# -- what lies there -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CacheEntry:
    """A cache on disk.

    Args:
        path: its folder, whose name `clean_cache` takes.
        source: the folder of images it was made of.
        images: decoded images by layout, such as `3x224x224-uint8`.
        bytes: on the disk.
        used: when it was used last, in seconds since 1970.
        in_use: whether a process uses it now.
    """

    path: Path
    source: str
    images: dict[str, int]
    bytes: int
    used: float
    in_use: bool


def list_caches(root: str | os.PathLike[str] | None = None) -> tuple[CacheEntry, ...]:
    """The caches in `root` (`cache_root` where None), by name."""
    found = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for path in sorted(cache_root(root).iterdir()):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                found.append(_entry(path))
    return tuple(found)


def _entry(path: Path) -> CacheEntry:
    about = json.loads((path / _ABOUT).read_bytes())
    status = [file.stat() for file in path.iterdir()]
    images = {
        file.stem: int(np.count_nonzero(read_marks(file, int(about["files"]))))
        for file in path.glob("*.marks")
    }
    return CacheEntry(
        path=path,
        source=str(about["source"]),
        images=images,
        bytes=sum(getattr(one, "st_blocks", -(-one.st_size // 512)) * 512 for one in status),
        used=max(max(one.st_mtime, one.st_atime) for one in status),
        in_use=is_held(path / _IN_USE) or is_held(path / _WRITING),
    )


def clean_cache(names: Sequence[str], root: str | os.PathLike[str] | None = None) -> tuple[CacheEntry, ...]:
    """Remove caches of `root` by name, or all that no process uses by "all"; what was removed.

    Raises:
        DataError: no cache of that name, or one that is in use.
    """
    there = {entry.path.name: entry for entry in list_caches(root)}
    for name in names:
        if name != "all" and name not in there:
            known = ", ".join(there) or "none"
            raise DataError(f"there is no cache {name!r} in {cache_root(root)}; there are: {known}")
    removed = []
    for name, entry in there.items():
        if name not in names and "all" not in names:
            continue
        with unused(entry.path / _IN_USE) as free:  # a process that writes uses it, too
            if free:
                shutil.rmtree(entry.path)
                removed.append(entry)
            elif name in names:
                raise DataError(f"the cache {entry.path} is in use; remove it when that run has ended")
    return tuple(removed)
