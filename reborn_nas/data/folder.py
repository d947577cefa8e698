"""`folder:PATH`: a user's own images, one folder a class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reborn_nas.data.cache import CachedImages, ImageFiles, Records, cache_root
from reborn_nas.data.files.decode import decode_in_memory, fits_memory, require_memory
from reborn_nas.data.files.entries import some
from reborn_nas.data.files.headers import HEADER
from reborn_nas.data.files.listing import (
    Listing,
    class_names,
    list_files,
    not_used,
    once,
    part_folders,
)
from reborn_nas.data.files.opening import BrokenImagesError
from reborn_nas.data.files.settle import settle
from reborn_nas.data.images import ImageSet
from reborn_nas.data.source import Reading, Source
from reborn_nas.data.undecoded import Undecoded
from reborn_nas.errors import DataError

PLANNED = 20_000
"""Files whose headers are read for a plan; of more, a sample of so many."""

Rows = np.ndarray[Any, Any]


def load_folder(name: str, make: Callable[[Source], ImageSet], how: Reading) -> ImageSet:
    """Images under the PATH of `folder:PATH`: `train/<class>/…`, optionally `val/<class>/…` and `test/<class>/…`.

    The names of the parts are matched without case, and with usual additions: `Training/`, `seg_train/`, `val2017/`.
    Without a training part, the folders in PATH are the classes. Sub-folders of a class belong to it. Symbolic links
    are followed. Images of another size than the most common one (or `image_size`) are resized to it. If all
    are grey, there is one channel, else three; TIFF files may have up to 16, as samples or as pages. Pixels of more
    than 8 bits are scaled by one range for the whole set, and kept in 16 where 8 would merge values. Where there are no
    pictures, NumPy arrays (`.npy`) of one to 16 channels are the images. What is not used is listed in the notes.

    Args:
        make: makes the image set, and reads its pixels.
        how: how they become pixels. Streamed or not, the numbers are the same bits. Where they are not to be decoded,
            for a plan, headers are read (of a sample, where there are more than `PLANNED`), and nothing is written.

    Raises:
        DataError: no such folder, fewer than two classes, a class without images in some part, folders whose use is
            unclear, one file in two classes or parts, images that cannot be read (all of them are counted).
    """
    path = name.removeprefix("folder:")
    if not path:
        raise DataError("data set 'folder:': name the folder, as in folder:/home/me/pictures")
    root = Path(path).expanduser()
    if not root.is_dir():
        raise DataError(f"data set {name!r}: there is no folder {root}; it should hold train/<class>/…")
    roots, notes = part_folders(name, root)
    classes, hidden = class_names(name, roots)
    listing = once(name, list_files(name, roots, classes), notes)
    notes += hidden + not_used(listing)
    pixels = _Pixels(name, root, listing.files, how)
    broken: list[tuple[Path | str, str]] = []
    left, words = listing, notes
    while True:  # until nothing more is found broken, so that all is named at once
        try:
            images = make(_source(pixels, roots, classes, left, words))
        except BrokenImagesError as error:
            broken += error.broken
            files = [file for file, _ in broken]
            words = [*notes, f"{len(files)} images that cannot be read were skipped: {some(files)}"]
            left = listing.without({str(file) for file in files})
            continue
        except DataError as error:
            if not broken:
                raise
            if how.skip_broken:
                raise DataError(f"{error}; {words[-1]}") from error
        else:
            if how.skip_broken or not broken:
                return images
        raise BrokenImagesError(broken)


@dataclass(frozen=True)
class _Pixels:
    """Where pixels come from.

    Args:
        files: all files of the folder, also those that are skipped: a cache covers them all.
    """

    name: str
    root: Path
    files: Sequence[str]
    how: Reading

    def read(self, rows: Rows, notes: list[str]) -> torch.Tensor | Records | Undecoded:
        """The images of the files `rows`: in memory if they fit and nothing else is asked for, else on disk."""
        if not self.how.decode:
            return self._planned(rows, notes)
        files = [self.files[k] for k in rows]
        if self.how.stream is False:
            headers = np.zeros(len(files), HEADER)
            layout = settle(files, headers, self.how.image_size, notes, self.how.resize)
            return decode_in_memory(files, headers, self.name, layout)
        cached = self._cached()
        layout = cached.settle(rows, self.how.image_size, notes, self.how.resize)
        in_memory = self.how.stream is None and fits_memory(len(rows), layout)
        if in_memory and len(cached.missing(rows, layout)):
            return decode_in_memory(files, cached.headers[rows], self.name, layout)
        records = cached.records(rows, layout)
        if in_memory:
            return records[:]
        notes.append(cached.describe(len(rows), layout))
        return records

    def _cached(self) -> CachedImages:
        return CachedImages(cache_root(self.how.cache_dir), ImageFiles(self.root, self.files))

    def _planned(self, rows: Rows, notes: list[str]) -> torch.Tensor | Records | Undecoded:
        """The same before they are decoded; what is in the cache already, is read from there."""
        how, cached, before = self.how, self._cached(), len(notes)
        seen = rows
        if len(rows) > PLANNED and not cached.knows(rows):
            seen = rows[np.linspace(0, len(rows) - 1, PLANNED).astype(np.int64)]
            notes.append(f"so far the headers of {len(seen):,} of the {len(rows):,} images are read")
        layout = cached.settle(seen, how.image_size, notes, how.resize)
        missing = len(cached.missing(rows, layout))
        if how.stream is not False and not missing:
            del notes[before:]
            return replace(self, how=replace(how, decode=True)).read(rows, notes)
        streamed = bool(how.stream) or (how.stream is None and not fits_memory(len(rows), layout))
        if streamed:
            cached.check_disk(missing, layout)
            notes.append(cached.describe(len(rows), layout, missing))
        else:
            require_memory(len(rows), self.name, layout)
        return Undecoded(cached.images, rows, layout, streamed, how.skip_broken)


def _source(
    read: _Pixels, roots: Mapping[str, Path], classes: Sequence[str], listing: Listing, notes: Sequence[str]
) -> Source:
    """The files of a listing."""
    present = np.arange(len(read.files))
    if len(listing.files) < len(present):  # without the broken ones
        left = set(listing.files)
        present = np.array([k for k, file in enumerate(read.files) if file in left])
    return Source(
        read.name,
        classes,
        torch.tensor(listing.labels, dtype=torch.int64),
        {
            part: torch.tensor([k for k, own in enumerate(listing.parts) if own == part], dtype=torch.int64)
            for part in roots
        },
        lambda kept, said: read.read(present[kept.numpy()], said),
        notes=notes,
        names=listing.files,
        undivided="" if "test" in roots else f"{read.root} has no test/",
        validation=f"{roots['validation'].name}/" if "validation" in roots else "",
    )
