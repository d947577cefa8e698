"""Datasets read once into the cache, and opened from there by every process of a study.

`cached:NAME` names what was given from Python: it means the same in every process that reaches the cache.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reborn_nas.commands import command_line
from reborn_nas.data.cache import CachedImages, Records, cache_root
from reborn_nas.data.files.decode import fits_memory, require_memory
from reborn_nas.data.files.entries import some
from reborn_nas.data.files.layout import Images, Layout
from reborn_nas.data.files.opening import BrokenImagesError, in_threads
from reborn_nas.data.files.settle import settle
from reborn_nas.data.items.given import class_names, parts_of, word_for
from reborn_nas.data.items.reading import BROKEN, Items, Rows
from reborn_nas.data.source import Reading, Source
from reborn_nas.errors import DataError
from reborn_nas.files import write_atomic

__all__ = ["CACHED", "hold", "is_live", "read_cached", "read_items", "take"]

CACHED = "cached:"

_ITEMS, _LABELS = "items.json", "labels.npy"


@dataclass(frozen=True)
class Given:
    """Datasets that were given, not read yet.

    Args:
        name: of the data set.
        names: of its classes; None where the Datasets have none.
    """

    name: str
    items: Items
    names: tuple[str, ...] | None


_held: dict[str, Given] = {}
"""What this process was given, by the name of its cache."""


def take(given: Any, name: str = "", *, known: str = "", ends: bool = False) -> Given:
    """Look at Datasets: their form, their classes, and a few of their items.

    Args:
        name: of the data set; the class of the Dataset where it is "".
        known: what they are known by in place of what they hold.
        ends: whether iterables are known to end.

    Raises:
        DataError: with what makes them unusable.
    """
    parts = parts_of(given, f"data set {name!r}" if name else "dataset", ends=ends)
    name = name or word_for(parts[0].dataset)
    what = f"data set {name!r}"
    names = class_names(parts, what)
    return Given(name, Items(what, name, parts, known=known), names)


def is_live(value: Any) -> bool:
    """Whether a setting is a Dataset, or several, not the name of a data set."""
    return value is not None and not isinstance(value, str)


def hold(given: Any) -> str:
    """A name for Datasets, by which this process finds them, and others what it has stored of them.

    Raises:
        DataError: they cannot be used.
    """
    taken = take(given)
    name = CachedImages(cache_root(), taken.items).path.name
    _held[name] = taken
    return CACHED + name


def read_cached(name: str, how: Reading) -> Source:
    """What `hold` named: the Datasets themselves in their own process, elsewhere what was stored of them.

    Raises:
        DataError: nothing is stored of them here, or not in this form.
    """
    place = name.removeprefix(CACHED)
    if place in _held:
        return read_items(_held[place], how)
    path = cache_root(how.cache_dir) / place
    try:
        if Path(place).name != place:
            raise ValueError("it is not the name of a cache")
        about = json.loads((path / "cache.json").read_bytes())
        parts = json.loads((path / _ITEMS).read_bytes())["parts"]
        images: Images = _Stored(name, str(about["source"]), str(about["key"]), parts)
        cached = CachedImages(path.parent, images)
        if cached.path != path:
            raise ValueError("it was made of something else")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"data set {name!r}: nothing that can be read is stored under this name in {path.parent} ({error}); it "
            "was made of Datasets given from Python: give them again there, copy the folder from where it is, or name "
            "the folder that it is in with --cache-dir"
        ) from error
    return _open(cached, how)


def read_items(given: Given, how: Reading) -> Source:
    """The source made of Datasets, which are read if the cache does not hold them yet.

    Raises:
        BrokenImagesError: items that cannot be read, all of them, unless they are to be skipped.
        DataError: with what makes the Datasets unusable.
    """
    cached = CachedImages(cache_root(how.cache_dir), given.items)
    if not (cached.path / _ITEMS).is_file():
        with cached.writing(lambda: "its items are read one by one"):
            if not (cached.path / _ITEMS).is_file():  # another process may have read them meanwhile
                _read(cached, given, how)
    return _open(cached, how)


def _read(cached: CachedImages, given: Given, how: Reading) -> None:
    """Read all items once; once more if the first ones were of another form than most."""
    items = given.items
    everything = np.arange(len(items))
    layout = items.provisional(how.image_size, how.resize)
    broken: list[tuple[str, str]] = []
    try:
        cached.decode(everything, layout)
    except BrokenImagesError as error:
        if not how.skip_broken:
            raise
        broken = [(str(name), reason) for name, reason in error.broken]
    there = everything[items.labels != BROKEN]
    classes = _classes(items, given.names)
    final = cached.settle(there, how.image_size, [], how.resize)
    cached.keep_headers()
    if final != layout:
        cached.discard(layout)
        cached.decode(there, final)
    content = io.BytesIO()
    np.save(content, items.labels)
    write_atomic(cached.path / _LABELS, content.getvalue())
    about = {"name": given.name, "parts": items.counts, "classes": list(classes), "broken": broken,
             "named": given.names is not None}  # fmt: skip
    write_atomic(cached.path / _ITEMS, json.dumps(about))  # the last: from here on it is complete


def _classes(items: Items, names: Sequence[str] | None) -> Sequence[str]:
    """The names of the classes, which are their numbers where they have none. Raises DataError."""
    most = int(items.labels.max())
    if names is None:
        if not (items.labels == 0).any():
            least = int(items.labels[items.labels != BROKEN].min())
            raise DataError(
                f"{items.what}: labels are {least} … {most}, but they count from 0; return label - {least}"
                if least <= 1
                else f"{items.what}: labels are {least} … {most}, but they count from 0"
            )
        return tuple(map(str, range(most + 1)))
    if most >= len(names):
        row = int(items.labels.argmax())
        raise DataError(
            f"{items.what}: {items.names[row]} has the label {most}, but there are {len(names)} classes, 0 … "
            f"{len(names) - 1}: {some(names)}"
        )
    return names


def _open(cached: CachedImages, how: Reading) -> Source:
    """The source made of what a cache holds."""
    about = json.loads((cached.path / _ITEMS).read_bytes())
    labels = np.load(cached.path / _LABELS, allow_pickle=False)
    broken = [(str(name), str(reason)) for name, reason in about["broken"]]
    if broken and not how.skip_broken:
        raise BrokenImagesError(broken)
    if isinstance(cached.images, Items):
        cached.images.recall(labels, cached.headers)
    there = np.flatnonzero(labels != BROKEN)
    parts, first = {}, 0
    for word, count in about["parts"]:
        inside = (there >= first) & (there < first + count)
        parts[str(word)] = torch.from_numpy(np.flatnonzero(inside))
        first += count
    notes = (
        [] if about["named"] else ["the Datasets have no class names (.classes), so the classes are numbers"]
    )
    if broken:
        notes.append(
            f"{len(broken)} images that cannot be read were skipped: {some([name for name, _ in broken])}"
        )

    def pixels(kept: torch.Tensor, said: list[str]) -> torch.Tensor | Records:
        layout = cached.settle(there, how.image_size, said, how.resize)
        rows = there[kept.numpy()]
        records = cached.records(rows, layout)
        if how.stream is False:
            require_memory(len(rows), str(about["name"]), layout)
        if how.stream is False or (how.stream is None and fits_memory(len(rows), layout)):
            return records[:]
        said.append(cached.describe(len(rows), layout))
        return records

    return Source(
        str(about["name"]),
        [str(name) for name in about["classes"]],
        torch.from_numpy(labels[there]),
        parts,
        pixels,
        notes=notes,
        names=Rows(about["parts"], there),
        undivided="" if "test" in parts else "no test part was given",
        validation="the validation part" if "validation" in parts else "",
    )


class _Stored:
    """Images of which a process knows only what is stored."""

    each = staticmethod(in_threads)

    def __init__(self, name: str, source: str, key: str, parts: Sequence[tuple[str, int]]) -> None:
        self.name, self.source, self.key, self.parts = name, source, key, parts

    def __len__(self) -> int:
        return sum(count for _, count in self.parts)

    def settle(
        self, rows: Any, headers: Any, size: tuple[int, int] | None, notes: list[str], resize: str
    ) -> Layout:
        """The layout of the images `rows`, whose headers are stored."""
        return settle(Rows(self.parts, rows), headers, size, notes, resize)

    def pixels(self, row: int, header: Any, layout: Layout) -> Any:
        """Never possible."""
        C, H, W = layout.shape
        raise DataError(
            f"data set {self.name!r}: its images are not stored as {C}×{H}×{W} ({layout.resize}), and the Datasets "
            "that they come from are not here; give these again from Python, or take a form that is stored: "
            f"{command_line('reborn-nas', 'cache')} lists them"
        )
