"""`CachedImages`: what is decoded of a set of images, in files that several processes share.

A cache is a folder of its own. Its name has a key, made of what the images are known by (of a folder the names, sizes
and times of all image files), so that another state of the same images is another cache. In it lie the images' headers;
of each layout the records, one an image, and their marks; and what was computed from them. A record counts once it is
marked, and a file of records is only ever filled in: a writer that is killed leaves what it marked, and the next one
goes on.
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
from reborn_nas.data.cache.write import check_disk, free_bytes, in_words, read_marks, write_records
from reborn_nas.data.files.decode import pixels_of
from reborn_nas.data.files.headers import HEADER, Flag
from reborn_nas.data.files.layout import Images, Layout
from reborn_nas.data.files.opening import in_threads
from reborn_nas.data.files.probe import read_headers
from reborn_nas.data.files.settle import settle
from reborn_nas.errors import DataError, blame_machine
from reborn_nas.files import write_atomic

__all__ = ["CacheEntry", "CachedImages", "ImageFiles", "cache_root", "clean_cache", "list_caches"]

FORMAT = 3
"""Changes with the files of a cache, and with what pixels the same image files become."""

_ABOUT, _HEADERS, _IN_USE, _WRITING = "cache.json", "headers.npy", "in-use", "writing"

WAIT_SECONDS = 30.0
"""How often a process that waits for another's decoding reports it."""

Table = np.ndarray[Any, Any]

_log = logging.getLogger(__name__)


def cache_root(given: str | os.PathLike[str] | None = None) -> Path:
    """Where decoded images lie: `given`, else `$REBORN_NAS_CACHE`, else `~/.cache/reborn-nas/decoded`."""
    return Path(given or os.environ.get("REBORN_NAS_CACHE") or "~/.cache/reborn-nas/decoded").expanduser()


class ImageFiles:
    """The images of a folder.

    Args:
        folder: the folder.
        files: all its image files, in a fixed order.
    """

    each = staticmethod(in_threads)

    def __init__(self, folder: Path, files: Sequence[str | Path]) -> None:
        self.files, self.source, self.key = files, str(folder), _key(folder, files)

    def __len__(self) -> int:
        return len(self.files)

    def settle(
        self, rows: Table, headers: Table, size: tuple[int, int] | None, notes: list[str], resize: str
    ) -> Layout:
        return settle([self.files[k] for k in rows], headers, size, notes, resize)

    def pixels(self, row: int, header: Any, layout: Layout) -> Table:
        if not header["flags"] & Flag.READ:
            own = np.zeros(1, HEADER)
            read_headers([self.files[row]], own)
            header = own[0]
        return pixels_of(Path(self.files[row]), header, layout)


class CachedImages:
    """The cache of a set of images. Nothing is written before `records`.

    Args:
        root: where caches lie.
        images: how they are decoded.
    """

    def __init__(self, root: Path, images: Images) -> None:
        self.root, self.images, self.key = root, images, images.key
        self.path = root / f"{_plain(images.source)}-{self.key[:16]}"
        self._headers: Table | None = None

    def settle(self, rows: Table, size: tuple[int, int] | None, notes: list[str], resize: str) -> Layout:
        """The layout of the images `rows`, as `headers.settle` decides it; cached headers are not read again."""
        self._headers = self.headers
        own = self._headers[rows]
        try:
            return self.images.settle(rows, own, size, notes, resize)
        finally:
            self._headers[rows] = own

    def knows(self, rows: Table) -> bool:
        """Whether the headers of the images `rows` are known."""
        return bool((self.headers["flags"][rows] & Flag.READ).all())

    def missing(self, rows: Table, layout: Layout) -> Table:
        """Those of the images `rows` that have no record yet."""
        return rows[self._marks(layout)[rows] == 0]

    def records(self, rows: Table, layout: Layout) -> Records:
        """The images `rows`, decoded first where they are not yet.

        Raises:
            BrokenImagesError: images that cannot be read; all others are kept.
            DataError: the disk is too small, or the cache cannot be written.
        """
        if missing := len(self.missing(rows, layout)):
            self.check_disk(missing, layout)  # before anything is written
        with self._writable():
            in_use = shared(self.path / _IN_USE)
        try:
            if len(self.missing(rows, layout)):
                self._write(rows, layout)
            raw = self._raw(layout)
            marks, size = self._marks(layout), raw.stat().st_size if raw.exists() else 0
            if size < (int(rows.max()) + 1) * layout.bytes:
                raise DataError(f"the cache {raw} is shorter than its marks: {self.mend}")
            return Records(raw, layout.shape, torch.from_numpy(rows), marks, self.mend, in_use, layout.kind)
        except BaseException:
            os.close(in_use)
            raise

    def describe(self, count: int, layout: Layout, missing: int = 0) -> str:
        """A note on images that are read from here in every epoch, `missing` of which are not decoded yet."""
        C, H, W = layout.shape
        when = "will be" if missing else "are"
        text = (
            f"{count:,} images of {C}×{H}×{W}, decoded {in_words(count * layout.bytes)}, {when} read from the cache "
            f"{self.path} (key {self.key[:16]}) as they are needed"
        )
        if not missing:
            return text
        return (
            f"{text}; {missing:,} of them are decoded once, into {in_words(missing * layout.bytes)} of a disk with "
            f"{in_words(free_bytes(self.path))} free"
        )

    def check_disk(self, count: int, layout: Layout) -> None:
        """Refuse to decode `count` images that the disk cannot hold.

        Raises:
            DataError: with the bytes that are needed and free.
        """
        C, H, W = layout.shape
        check_disk(self.path, count * layout.bytes, f"{count:,} images of {C}×{H}×{W}, decoded,")

    @property
    def mend(self) -> str:
        """The way out where a cache is damaged."""
        line = command_line("reborn-nas", "cache", "--cache-dir", self.root, "--clean", self.path.name)
        return f"`{line}` removes it, and the next run decodes again"

    def _write(self, rows: Table, layout: Layout) -> None:
        with self.writing(lambda: f"{len(self.missing(rows, layout)):,} images are left"):
            missing = self.missing(rows, layout)
            if len(missing):  # else another process has decoded them meanwhile
                self.decode(missing, layout)

    @contextlib.contextmanager
    def writing(self, left: Callable[[], str]) -> Iterator[None]:
        """Alone among the processes that write here.

        Args:
            left: what another one still has to do, for the messages while this one waits.
        """
        reported = -WAIT_SECONDS

        def waiting(seconds: float) -> None:
            nonlocal reported
            if seconds - reported >= WAIT_SECONDS:
                reported = seconds
                _log.warning("another process decodes into %s; %s", self.path, left())

        with self._writable():
            in_use = shared(self.path / _IN_USE)
            try:
                with locked(self.path / _WRITING, waiting):
                    yield
            finally:
                os.close(in_use)

    def decode(self, rows: Table, layout: Layout) -> None:
        """Write the records of the images `rows`, whether or not there are any; for one that is `writing`."""
        self.check_disk(len(rows), layout)
        source = self.images.source
        about = {"format": FORMAT, "key": self.key, "source": source, "files": len(self.images)}
        write_atomic(self.path / _ABOUT, json.dumps(about, indent=1))
        self.keep_headers()
        for other in list_caches(self.root):
            if other.source == source and other.path != self.path:
                _log.warning("%s is of another state of %s and is not used", other.path, source)
        _log.warning(
            "decoding %s images of %d×%d×%d once, into %s (%s, key %s)",
            f"{len(rows):,}", *layout.shape, self.path, in_words(len(rows) * layout.bytes), self.key[:16],
        )  # fmt: skip
        write_records(self._raw(layout), self.images, self.headers, rows, layout, self._marks(layout))

    def discard(self, layout: Layout) -> None:
        """Remove the records of a layout that no images have; for one that is `writing`."""
        for suffix in (".marks", ".sums", ".raw"):
            self._raw(layout).with_suffix(suffix).unlink(missing_ok=True)

    def _raw(self, layout: Layout) -> Path:
        return self.path / f"{layout.name}.raw"

    def _marks(self, layout: Layout) -> Table:
        return read_marks(self._raw(layout).with_suffix(".marks"), len(self.images))

    @property
    def headers(self) -> Table:
        """The headers of all images, empty where they were not read."""
        if self._headers is not None:
            return self._headers
        with contextlib.suppress(OSError, ValueError):
            found = np.load(self.path / _HEADERS, allow_pickle=False)
            if found.shape == (len(self.images),) and found.dtype == HEADER:
                return np.array(found)
        return np.zeros(len(self.images), HEADER)

    def keep_headers(self) -> None:
        """Keep what `settle` has read of headers."""
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


def _plain(source: str) -> str:
    """The name of a folder, or of what else images come from, in letters that any file system and shell takes."""
    name = Path(source).resolve().name
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
    try:
        about = json.loads((path / _ABOUT).read_bytes())
        source = str(about["source"])
    except (OSError, ValueError, KeyError, TypeError):
        if not (path / _IN_USE).exists() or not any(path.glob("*.marks")):
            raise  # something else
        source = f"unknown: {_ABOUT} is damaged"
    status = [file.stat() for file in path.iterdir()]
    images = {
        file.stem: int(np.count_nonzero(read_marks(file, file.stat().st_size // 8)))
        for file in path.glob("*.marks")
    }
    return CacheEntry(
        path=path,
        source=source,
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
