"""Image files → uint8 pixels of one shape, in threads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from reborn_nas.data.files.headers import DEEP, HEADER, Layout, orientation, settle
from reborn_nas.data.files.listing import ARRAY
from reborn_nas.data.files.opening import in_threads, read_array, reading
from reborn_nas.errors import DataError
from reborn_nas.machine import available_memory

try:
    import torchvision.io as torchvision_io

    torchvision_io.decode_jpeg, torchvision_io.ImageReadMode  # noqa: B018 - announced to go
except (ImportError, AttributeError):
    torchvision_io = None  # type: ignore[assignment]

__all__ = [
    "MEMORY_SHARE",
    "array_pixels",
    "decode",
    "decode_in_memory",
    "fits_memory",
    "pixels_of",
    "require_memory",
]

MEMORY_SHARE = 0.6
"""Images may take this share of the host memory that is free."""

_UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


def decode(
    files: Sequence[str | Path], name: str, size: tuple[int, int] | None, notes: list[str]
) -> torch.Tensor:
    """The images of `files` as uint8 (N, C, H, W).

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
    return decode_in_memory(files, name, settle(files, np.zeros(len(files), HEADER), size, notes))


def decode_in_memory(files: Sequence[str | Path], name: str, layout: Layout) -> torch.Tensor:
    """The images of `files` in a settled layout: uint8 (N, C, H, W).

    Raises:
        BrokenImagesError: files that are no whole image, all of them.
        DataError: more pixels than the memory holds.
    """
    require_memory(len(files), name, layout)
    out = torch.empty(len(files), *layout.shape, dtype=torch.uint8)
    rows = out.numpy()

    def fill(k: int) -> None:
        rows[k] = pixels_of(Path(files[k]), layout)

    for _ in in_threads(len(files), fill):
        pass
    return out


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


def pixels_of(file: Path, layout: Layout) -> np.ndarray[Any, Any]:
    """One image as uint8 (C, H, W)."""
    channels, H, W = layout.shape
    if file.suffix.lower() == ARRAY:
        return array_pixels(read_array(file), layout)

    def read(image: Image.Image) -> np.ndarray[Any, Any]:
        mode = "L" if channels == 1 else "RGB"
        turn = _UPRIGHT.get(orientation(image) or 1)
        if image.format == "JPEG" and image.mode == mode and image.size == (W, H) and turn is None:
            whole = _jpeg(file, mode)
            if whole is not None and whole.shape == layout.shape:
                return whole
        if image.mode not in DEEP and min(image.size) > 4 * max(H, W):
            image.draft(mode, (2 * W, 2 * H))  # a JPEG decoder can halve cheaply; the rest is resampled below
        upright = image if turn is None else image.transpose(Image.Transpose[turn])
        if upright.mode in DEEP:
            upright = Image.fromarray(_scaled(np.asarray(upright), layout))
        elif upright.mode == "P" and "transparency" in upright.info:
            upright = upright.convert("RGBA")
        plain = upright.convert(mode)
        found = np.asarray(_resized(plain, layout))
        return found[None] if channels == 1 else found.transpose(2, 0, 1)

    return reading(file, read)[0]


def _resized(image: Image.Image, layout: Layout) -> Image.Image:
    size, how = (layout.width, layout.height), Image.Resampling.BILINEAR
    if image.size == size:
        return image
    if layout.resize == "stretch":
        return image.resize(size, how)
    if layout.resize == "contain":
        return ImageOps.pad(image, size, method=how, color=0)
    return ImageOps.fit(image, size, method=how)


def _scaled(values: np.ndarray[Any, Any], layout: Layout) -> np.ndarray[Any, Any]:
    """uint8: the layout's range as 0 … 255, what lies outside of it at its ends."""
    low, high = layout.low, layout.high
    return ((values.astype(np.float64) - low) * (255 / (high - low))).clip(0, 255).round().astype(np.uint8)


def array_pixels(array: np.ndarray[Any, Any], layout: Layout) -> np.ndarray[Any, Any]:
    """An array (H, W, C) as uint8 (C, H, W), each channel resized by itself."""
    values = np.asarray(array) if array.dtype == np.uint8 else _scaled(array, layout)
    planes = (Image.fromarray(np.ascontiguousarray(plane)) for plane in values.transpose(2, 0, 1))
    return np.stack([np.asarray(_resized(plane, layout)) for plane in planes])


def _jpeg(file: Path, mode: str) -> np.ndarray[Any, Any] | None:
    """A JPEG by torchvision, to the same bits as by Pillow in two thirds of the time; None where it refuses."""
    if torchvision_io is None:
        return None
    try:
        data = torch.from_numpy(np.fromfile(file, np.uint8))
        kind = torchvision_io.ImageReadMode.GRAY if mode == "L" else torchvision_io.ImageReadMode.RGB
        return np.asarray(torchvision_io.decode_jpeg(data, mode=kind).numpy())
    except (RuntimeError, ValueError, OSError):  # Pillow decides what is broken, and says why
        return None
