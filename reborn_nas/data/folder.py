"""`folder:PATH`: a user's own images, one folder a class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reborn_nas.data.cache import CachedImages, ImageFiles, Records, cache_root
from reborn_nas.data.files.decode import decode_in_memory, fits_memory
from reborn_nas.data.files.headers import HEADER, settle
from reborn_nas.data.files.listing import (
    Listing,
    class_names,
    list_files,
    not_used,
    once,
    part_folders,
    some,
)
from reborn_nas.data.files.opening import BrokenImagesError
from reborn_nas.data.images import ImageSet
from reborn_nas.data.source import Reading, Source
from reborn_nas.errors import DataError


def load_folder(name: str, make: Callable[[Source], ImageSet], how: Reading) -> ImageSet:
    """Images under the PATH of `folder:PATH`: `train/<class>/…`, optionally `val/<class>/…` and `test/<class>/…`.

    The names of the parts are matched without case, and with usual additions: `Training/`, `seg_train/`, `val2017/`.
    Without a training part, the folders in PATH are the classes. Sub-folders of a class belong to it. Symbolic links
    are followed. Images of another size than the most common one (or `image_size`) are resized to it. If all
    are grey, there is one channel, else three. Pixels of more than 8 bits are scaled to 8, by one range for the whole
    set. Where there are no pictures, NumPy arrays (`.npy`) of one to 16 channels are the images. What is not used is
    listed in the notes.

    Args:
        make: makes the image set, and reads its pixels.
        how: how they become pixels. Streamed or not, the numbers are the same bits.

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
    broken: list[Path | str] = []
    while True:
        try:
            return make(_source(pixels, roots, classes, listing, notes))
        except BrokenImagesError as error:
            if not how.skip_broken:
                raise
            notes = notes[: len(notes) - bool(broken)]
            broken += error.files
            notes.append(f"{len(broken)} images that cannot be read were skipped: {some(broken)}")
            listing = listing.without({str(file) for file in error.files})
        except DataError as error:
            if not broken:
                raise
            raise DataError(f"{error}; {notes[-1]}") from error


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

    def read(self, rows: np.ndarray[Any, Any], notes: list[str]) -> torch.Tensor | Records:
        """The images of the files `rows`: in memory if they fit and nothing else is asked for, else on disk."""
        files = [self.files[k] for k in rows]
        if self.how.stream is False:
            return decode_in_memory(
                files,
                self.name,
                settle(files, np.zeros(len(files), HEADER), self.how.image_size, notes, self.how.resize),
            )
        cached = CachedImages(cache_root(self.how.cache_dir), ImageFiles(self.root, self.files))
        layout = cached.settle(rows, self.how.image_size, notes, self.how.resize)
        in_memory = self.how.stream is None and fits_memory(len(rows), layout)
        if in_memory and len(cached.missing(rows, layout)):
            return decode_in_memory(files, self.name, layout)
        records = cached.records(rows, layout)
        if in_memory:
            return records[:]
        notes.append(cached.describe(records))
        return records


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
        undivided="" if "test" in roots else f"{read.root} has no test/",
        validation=f"{roots['validation'].name}/" if "validation" in roots else "",
    )
