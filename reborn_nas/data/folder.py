"""`folder:PATH`: a user's own images, one folder a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reborn_nas.data.augment.settings import PAPER_AUGMENTATION, Augmentation
from reborn_nas.data.cache import CachedFolder, Records, cache_root
from reborn_nas.data.cache.write import in_words
from reborn_nas.data.files.decode import decode_in_memory, fits_memory
from reborn_nas.data.files.headers import HEADER, settle
from reborn_nas.data.files.listing import (
    PARTS,
    Listing,
    class_names,
    list_files,
    not_used,
    once,
    part_folders,
    some,
)
from reborn_nas.data.files.opening import BrokenImagesError
from reborn_nas.data.images import ImageSet, assemble
from reborn_nas.data.parts import plan_parts
from reborn_nas.errors import DataError


def load_folder(
    name: str,
    path: str | Path,
    *,
    image_size: tuple[int, int] | None = None,
    seed: int = 0,
    fraction: float = 1.0,
    flip: bool | None = None,
    skip_broken: bool = False,
    resize: str = "cover",
    stream: bool | None = None,
    cache_dir: str | Path | None = None,
) -> ImageSet:
    """Images under `path`: `train/<class>/…`, optionally `val/<class>/…` and `test/<class>/…`.

    The names of the parts are matched without case, and with usual additions: `Training/`, `seg_train/`, `val2017/`.
    Without a training part, the folders in `path` are the classes. Sub-folders of a class belong to it. Symbolic links
    are followed. Images of another size than the most common one (or `image_size`) are resized to it. If all
    are grey, there is one channel, else three. Pixels of more than 8 bits are scaled to 8, by one range for the whole
    set. Where there are no pictures, NumPy arrays (`.npy`) of one to 16 channels are the images. What is not used is
    listed in the notes.

    Args:
        skip_broken: leave out images that cannot be read, instead of raising; the notes count them.
        resize: of images of another size: cover (cut what is left over), contain (black around), stretch.
        stream: whether every epoch reads the decoded images from a cache on disk; where None, if they would take more
            than `MEMORY_SHARE` of the memory that is free. The numbers are the same bits either way.
        cache_dir: where caches lie; `$REBORN_NAS_CACHE`, else `~/.cache/reborn-nas/decoded`.

    Raises:
        DataError: no such folder, fewer than two classes, a class without images in some part, folders whose use is
            unclear, one file in two classes or parts, images that cannot be read (all of them are counted).
    """
    if not str(path):
        raise DataError("data set 'folder:': name the folder, as in folder:/home/me/pictures")
    root = Path(path).expanduser()
    if not root.is_dir():
        raise DataError(f"data set {name!r}: there is no folder {root}; it should hold train/<class>/…")
    roots, notes = part_folders(name, root)
    classes, hidden = class_names(name, roots)
    listing = once(name, list_files(name, roots, classes), notes)
    notes += hidden + not_used(listing)
    source = _Source(name, root, listing.files, image_size, resize, stream, cache_dir)
    broken: list[Path] = []
    while True:
        try:
            return _read(source, roots, classes, listing, notes, seed, fraction, flip)
        except BrokenImagesError as error:
            if not skip_broken:
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
class _Source:
    """Where pixels come from.

    Args:
        files: all files of the folder, also those that are skipped: a cache covers them all.
    """

    name: str
    root: Path
    files: Sequence[str]
    size: tuple[int, int] | None
    resize: str
    stream: bool | None
    cache_dir: str | Path | None

    def pixels(self, rows: np.ndarray[Any, Any], notes: list[str]) -> torch.Tensor | Records:
        """The images of the files `rows`: in memory if they fit and nothing else is asked for, else on disk."""
        files = [self.files[k] for k in rows]
        if self.stream is False:
            return decode_in_memory(
                files, self.name, settle(files, np.zeros(len(files), HEADER), self.size, notes, self.resize)
            )
        cached = CachedFolder(cache_root(self.cache_dir), self.root, self.files)
        layout = cached.settle(rows, self.size, notes, self.resize)
        in_memory = self.stream is None and fits_memory(len(rows), layout)
        if in_memory and len(cached.missing(rows, layout)):
            return decode_in_memory(files, self.name, layout)
        records = cached.records(rows, layout)
        if in_memory:
            return records[:]
        C, H, W = layout.shape
        notes.append(
            f"{len(rows):,} images of {C}×{H}×{W}, decoded {in_words(records.nbytes)}, are read from the cache "
            f"{cached.path} (key {cached.key[:16]}) as they are needed"
        )
        return records


def _read(
    source: _Source,
    roots: Mapping[str, Path],
    classes: Sequence[str],
    listing: Listing,
    known: Sequence[str],
    seed: int,
    fraction: float,
    flip: bool | None,
) -> ImageSet:
    """The image set made of the files of a listing."""
    notes = list(known)
    labels = torch.tensor(listing.labels, dtype=torch.int64)
    where = {
        part: torch.tensor([k for k, own in enumerate(listing.parts) if own == part], dtype=torch.int64)
        for part in PARTS
    }
    parts = plan_parts(
        labels,
        classes,
        name=source.name,
        train=where["train"],
        test=where["test"] if "test" in roots else None,
        validation=where["validation"] if "validation" in roots else None,
        seed=seed,
        fraction=fraction,
    )
    if "test" not in roots:
        notes.append(
            f"{source.root} has no test/; a fixed stratified part of {len(parts.test)} images is the test set"
        )
    if "validation" in roots:
        notes.append(
            f"the {parts.validation_size} images of {roots['validation'].name}/ validate in every block"
        )

    present = np.arange(len(source.files))
    if len(listing.files) < len(present):  # without the broken ones
        left = set(listing.files)
        present = np.array([k for k, file in enumerate(source.files) if file in left])

    def pixels(kept: torch.Tensor) -> torch.Tensor | Records:
        return source.pixels(present[kept.numpy()], notes)

    augmentation = Augmentation(PAPER_AUGMENTATION.crop_padding, True if flip is None else flip)
    return assemble(source.name, pixels, labels, classes, parts, augmentation, notes)
