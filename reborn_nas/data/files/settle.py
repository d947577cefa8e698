"""What the headers of a set's files decide together: the size, the channels and the type of its pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reborn_nas.data.files.decode import decode_in_memory
from reborn_nas.data.files.headers import HEADER, Flag
from reborn_nas.data.files.layout import RESIZES, Layout
from reborn_nas.data.files.levels import levels_of
from reborn_nas.data.files.probe import read_headers
from reborn_nas.errors import DataError

__all__ = ["decode", "settle"]

_NOTES = (
    (Flag.ODD, "images have broken metadata, which was not read; their pixels are whole"),
    (Flag.SEVERAL, "files hold several images or pages, of which the first is read"),
    (Flag.PAGES, "TIFF files hold several grey pages of one size, which are read as channels"),
    (Flag.WIDE, "colour images have 16 bits a channel, of which the upper 8 are read"),
    (
        Flag.EITHER,
        "arrays could have their channels first or last; the last axis was taken, of tensors the first",
    ),
    (Flag.ALPHA, "images have transparency, which is not read"),
)

Table = np.ndarray[Any, Any]


def settle(
    files: Sequence[str | Path],
    headers: Table,
    size: tuple[int, int] | None,
    notes: list[str],
    resize: str = "cover",
) -> Layout:
    """The layout of `files`. Rows of `headers` that are not filled in yet are read, then no file is opened.

    Args:
        headers: (N,) of `HEADER`; filled in place.
        size: (height, width); without it the most common one.
        notes: what was decided is appended here.
        resize: what becomes of images of another size, a key of `RESIZES`.

    Raises:
        BrokenImagesError: files without a header that can be read, all of them.
        DataError: different numbers of channels beyond three; more than 8 bits and not one value but the same.
    """
    read_headers(files, headers)
    channels = _channels(files, headers)
    sizes, counts = np.unique(
        np.stack([headers["height"], headers["width"]], 1).astype(np.int64), axis=0, return_counts=True
    )
    found = {(int(h), int(w)): int(n) for (h, w), n in zip(sizes, counts)}
    if size is None:
        # the most common; of several, the largest, so that the order of the files does not matter
        size = max(found, key=lambda s: (found[s], s[0] * s[1], s))
    H, W = size
    others = len(files) - found.get(size, 0)
    if others:
        notes.append(f"{others} of {len(files)} images are not {H}×{W}: {RESIZES[resize]}")
    for flag, text in _NOTES:
        if count := int(np.count_nonzero(headers["flags"] & flag)):
            notes.append(f"{count} {text}")
    kind, low, high = levels_of(files, headers, channels, notes)
    return Layout(channels, H, W, kind, low, high, resize)


def _channels(files: Sequence[str | Path], headers: Table) -> int:
    """Of pictures 1 if all are grey, else 3; of arrays and images of other channels what all of them have."""
    found, first = np.unique(headers["channels"], return_index=True)
    arrays = headers["flags"] & Flag.ARRAY != 0
    if arrays.any() and 0 < np.count_nonzero(headers["flags"] & Flag.DEEP) < len(files):
        raise DataError(
            "some arrays are uint8 and others not, so that the same value may mean two things; store all in one type"
        )
    if not arrays.any() and set(found.tolist()) <= {1, 3}:
        return 1 if found.tolist() == [1] else 3
    if len(found) > 1:
        some = ", ".join(f"{files[k]} has {n}" for n, k in zip(found.tolist()[:3], first.tolist()))
        raise DataError(f"all images of a data set have the same number of channels, but {some}")
    return int(found[0])


def decode(
    files: Sequence[str | Path], name: str, size: tuple[int, int] | None, notes: list[str]
) -> torch.Tensor:
    """The images of `files` as one tensor (N, C, H, W).

    Headers are read first, for the size and the channels, then the pixels into a tensor allocated once. Images of more
    than 8 bits are read once more in between, for the range of their values.

    Args:
        name: of the data set, for messages.
        size: (height, width); without it the most common one.
        notes: what was decided is appended here.

    Raises:
        BrokenImagesError: files that are no whole image, all of them.
        DataError: more pixels than the memory holds.
    """
    headers = np.zeros(len(files), HEADER)
    return decode_in_memory(files, headers, name, settle(files, headers, size, notes))
