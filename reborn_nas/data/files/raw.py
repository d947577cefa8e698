"""The pixels of an image file as they are stored, upright: by Pillow, or by what reads that file faster or rightly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from reborn_nas.data.files.headers import DEEP, Reader
from reborn_nas.data.files.opening import read_array, reading, vetted
from reborn_nas.data.files.tiff import read_tiff, tiff_of

try:
    import torchvision.io as torchvision_io

    torchvision_io.decode_jpeg, torchvision_io.decode_png  # noqa: B018 - announced to go
except (ImportError, AttributeError):
    torchvision_io = None  # type: ignore[assignment]

__all__ = ["raw_pixels"]

Pixels = np.ndarray[Any, Any]


def raw_pixels(file: Path, header: Any, channels: int, least: tuple[int, int] | None = None) -> Pixels:
    """An image as (C, H, W), of the type that the file has.

    Args:
        header: its row of `HEADER`.
        channels: of the set; pictures are read as grey ones if it is 1, else as RGB, unless they are deep and grey.
        least: (height, width) below which a JPEG decoder may not shrink the image; None where it may not at all.

    Raises:
        BrokenImagesError: it is no whole image.
    """
    reader = int(header["reader"])
    if reader == Reader.ARRAY:
        return read_array(file).transpose(2, 0, 1)
    turn = int(header["turn"])
    if reader == Reader.TIFF:
        return _turned(vetted(file, lambda: read_tiff(file, tiff_of(file))), turn)
    if reader in (Reader.JPEG, Reader.DEEP_PNG) and (least is None or not _shrinks(header, least)):
        decoded = _by_torchvision(file, reader, channels == 1)
        if decoded is not None:
            return _turned(decoded, turn)
    mode = "L" if channels == 1 else "RGB"

    def read(image: Image.Image) -> Pixels:
        if reader == Reader.PAGES:
            return _pages(image, int(header["channels"]))
        if least is not None and reader == Reader.JPEG:
            image.draft(mode, (2 * max(least), 2 * max(least)))  # halves cheaply; the rest is resampled later
        if image.mode in DEEP:
            return np.asarray(image)[None]
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")
        plain = np.asarray(image.convert(mode))
        return plain[None] if channels == 1 else plain.transpose(2, 0, 1)

    return _turned(reading(file, read)[0], turn)


def _shrinks(header: Any, least: tuple[int, int]) -> bool:
    """Whether a JPEG is so large that a decoder which halves it saves most of the time."""
    return min(int(header["height"]), int(header["width"])) > 4 * max(least)


def _pages(image: Image.Image, count: int) -> Pixels:
    """The first `count` pages of the size and mode of the first, one a channel."""
    size, mode = image.size, image.mode
    planes: list[Pixels] = []
    for page in range(getattr(image, "n_frames", 1)):
        image.seek(page)
        if len(planes) < count and (image.size, image.mode) == (size, mode):
            planes.append(np.asarray(image if mode in DEEP else image.convert("L")))
    return np.stack(planes)


def _by_torchvision(file: Path, reader: int, grey: bool) -> Pixels | None:
    """A JPEG to the same bits as by Pillow in two thirds of the time, or a deep PNG; None where it refuses."""
    if torchvision_io is None:
        return None
    kind = torchvision_io.ImageReadMode.GRAY if grey else torchvision_io.ImageReadMode.RGB
    decode = torchvision_io.decode_jpeg if reader == Reader.JPEG else torchvision_io.decode_png
    try:
        data = torch.from_numpy(np.fromfile(file, np.uint8))
        return np.asarray(decode(data, mode=kind).numpy())
    except (RuntimeError, ValueError, OSError):  # Pillow decides what is broken, and says why
        return None


def _turned(pixels: Pixels, turn: int) -> Pixels:
    """(C, H, W) as it is seen, by EXIF's number of the orientation."""
    if turn >= 5:
        pixels = pixels.swapaxes(1, 2)
    if turn in (3, 4, 7, 8):
        pixels = pixels[:, ::-1]
    if turn in (2, 3, 6, 7):
        pixels = pixels[:, :, ::-1]
    return pixels
