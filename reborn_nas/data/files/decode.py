"""Image files → pixels of one shape and type, in threads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from reborn_nas.data.files.headers import Flag
from reborn_nas.data.files.layout import Layout
from reborn_nas.data.files.opening import in_threads
from reborn_nas.data.files.raw import raw_pixels
from reborn_nas.errors import DataError
from reborn_nas.machine import available_memory

__all__ = ["MEMORY_SHARE", "decode_in_memory", "fits_memory", "pixels_in", "pixels_of", "require_memory"]

MEMORY_SHARE = 0.6
"""Images may take this share of the host memory that is free."""

Table = np.ndarray[Any, Any]


def decode_in_memory(files: Sequence[str | Path], headers: Table, name: str, layout: Layout) -> torch.Tensor:
    """The images of `files` in a settled layout, of its type: (N, C, H, W).

    Args:
        headers: a row of `HEADER` for each.

    Raises:
        BrokenImagesError: files that are no whole image, all of them.
        DataError: more pixels than the memory holds.
    """
    require_memory(len(files), name, layout)
    rows = np.empty((len(files), *layout.shape), layout.dtype)

    def fill(k: int) -> None:
        rows[k] = pixels_of(Path(files[k]), headers[k], layout)

    for _ in in_threads(len(files), fill):
        pass
    return torch.from_numpy(rows)


def require_memory(count: int, name: str, layout: Layout) -> None:
    """Raise DataError where `count` images take more memory than there is for them."""
    free = available_memory()
    if free is None or fits_memory(count, layout):
        return
    C, H, W = layout.shape
    raise DataError(
        f"data set {name!r}: {count} images of {C}×{H}×{W} take {count * layout.bytes / 2**30:.1f} GiB, and "
        f"{free / 2**30:.1f} GiB of memory are free; --stream reads them from a cache on disk, a smaller "
        "--image-size or a --fraction takes less"
    )


def fits_memory(count: int, layout: Layout) -> bool:
    """Whether `count` images take no more than `MEMORY_SHARE` of the memory that is free."""
    free = available_memory()
    return free is None or count * layout.bytes <= MEMORY_SHARE * free


def pixels_of(file: Path, header: Any, layout: Layout) -> Table:
    """One image of the layout's type and shape: (C, H, W).

    Args:
        header: its row of `HEADER`.
    """
    C, H, W = layout.shape
    return pixels_in(raw_pixels(file, header, C, (H, W)), bool(header["flags"] & Flag.DEEP), layout)


def pixels_in(values: Table, deep: bool, layout: Layout) -> Table:
    """An image (C, h, w), or a grey one (1, h, w), in a layout: (C, H, W).

    Args:
        deep: whether its values are those that the layout's range is of.
    """
    if deep:
        planes = _fitted(_levels(values, layout), layout)
        values = np.rint(planes).clip(0, layout.one).astype(layout.dtype)
    else:
        values = _fitted(values, layout)
        if layout.one > 255:
            values = values.astype(layout.dtype) * (layout.one // 255)
    return np.broadcast_to(values, layout.shape) if len(values) != layout.channels else values


def _levels(values: Table, layout: Layout) -> Table:
    """float64: the layout's range as 0 … `one`, what lies outside of it at its ends."""
    low, high, one = layout.low, layout.high, layout.one
    return ((values.astype(np.float64) - low) * (one / (high - low))).clip(0, one)


def _fitted(values: Table, layout: Layout) -> Table:
    """(C, h, w) at the layout's size: bytes as bytes, other numbers as they are."""
    H, W = layout.height, layout.width
    h, w = values.shape[1:]
    if (h, w) == (H, W):
        return values
    if layout.resize == "stretch":
        return _resized(values, H, W)
    if layout.resize == "contain":
        inner = (max(1, min(H, round(h * W / w))), max(1, min(W, round(w * H / h))))
        framed = np.zeros((len(values), H, W), values.dtype)
        top, left = round((H - inner[0]) / 2), round((W - inner[1]) / 2)
        framed[:, top : top + inner[0], left : left + inner[1]] = _resized(values, *inner)
        return framed
    tall, wide = (max(1, min(h, round(w * H / W))), max(1, min(w, round(h * W / H))))
    top, left = (h - tall) // 2, (w - wide) // 2
    return _resized(values[:, top : top + tall, left : left + wide], H, W)


def _resized(values: Table, height: int, width: int) -> Table:
    """Bilinear with antialiasing: bytes by torch, in a third of the time that Pillow takes."""
    if values.shape[1:] == (height, width):
        return values
    if values.dtype == np.uint8:
        if not values.flags.writeable or min(values.strides) < 0:  # torch takes neither
            values = np.ascontiguousarray(values)
            values = values if values.flags.writeable else values.copy()
        pixels = torch.from_numpy(values)[None]
        size = (height, width)
        return np.asarray(F.interpolate(pixels, size=size, mode="bilinear", antialias=True)[0].numpy())
    return np.stack([
        np.asarray(Image.fromarray(plane.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR))
        for plane in values
    ])  # fmt: skip
