"""What a Dataset returns as one item: its image as an array, its label as a number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image

from reborn_nas.data.files import decode
from reborn_nas.data.files.headers import DEEP, GREY, Flag
from reborn_nas.data.files.layout import Layout
from reborn_nas.data.files.opening import MOST_CHANNELS
from reborn_nas.errors import DataError

__all__ = ["as_array", "as_label", "image_and_label", "pixels_in"]

Array = np.ndarray[Any, Any]


def image_and_label(item: Any, where: str) -> tuple[Any, Any]:
    """The two values of an item. Raises DataError where it does not have two."""
    if isinstance(item, Mapping):
        keys = ", ".join(map(repr, list(item)[:5]))
        found = f"a mapping with {keys}; return (item[…], item[…]) from a Dataset around it"
    elif isinstance(item, tuple | list):
        if len(item) == 2:
            return item[0], item[1]
        found = f"{len(item)} values; wrap it in a Dataset that returns two"
    else:
        found = f"one {_kind(item)}; a labelled image is needed"
    raise DataError(f"{where}: an item is (image, label), but it is {found}")


def as_array(image: Any, where: str) -> tuple[Array, int]:
    """An image as (H, W, C), and its flags: an array, which is never grey among coloured ones; of axes that could be
    meant otherwise; with transparency.

    A tensor is (C, H, W) or (H, W), an array (H, W, C) or (H, W). Raises DataError for everything else.
    """
    if isinstance(image, Image.Image):
        return _of_picture(image), Flag.ALPHA * image.has_transparency_data
    if isinstance(image, torch.Tensor):
        plain = image.detach().cpu()
        values = (plain.float() if plain.dtype in (torch.bfloat16, torch.float16) else plain).numpy()
        axes, other = "(C, H, W)", "permute(2, 0, 1) makes it one if it is (H, W, C)"
    elif isinstance(image, np.ndarray):
        values, axes = image, "(H, W, C)"
        other = "transpose(1, 2, 0) makes it one if it is (C, H, W)"
    else:
        raise DataError(f"{where}: an image is a tensor, a NumPy array or a PIL image, not {_kind(image)}")
    shape = tuple(values.shape)
    if values.ndim == 3 and isinstance(image, torch.Tensor):
        values = values.transpose(1, 2, 0)
    elif values.ndim == 2:
        values = values[:, :, None]
    if values.ndim != 3 or 0 in shape or values.shape[2] > MOST_CHANNELS:
        what = "a tensor" if isinstance(image, torch.Tensor) else "an array"
        raise DataError(
            f"{where}: {what} of an image is {axes} or (H, W), with 1 to {MOST_CHANNELS} channels, not {shape}; {other}"
        )
    if values.dtype == np.bool_:
        values = values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind not in "uif":
        raise DataError(f"{where}: the values of an image are whole numbers or fractions, not {values.dtype}")
    last = isinstance(image, np.ndarray)
    channels, other = (shape[-1], shape[0]) if last else (shape[0], shape[-1])
    unclear = len(shape) == 3 and channels not in (1, 3) and other <= MOST_CHANNELS
    return values, Flag.ARRAY | Flag.EITHER * unclear


def _of_picture(image: Image.Image) -> Array:
    if image.mode in DEEP:
        return np.asarray(image)[:, :, None]
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    mode = "L" if image.mode in GREY else "RGB"
    found = np.asarray(image if image.mode == mode else image.convert(mode))
    return found[:, :, None] if found.ndim == 2 else found


def as_label(label: Any, where: str) -> int:
    """A label as a number that is not negative. Raises DataError for everything else."""
    if isinstance(label, torch.Tensor | np.ndarray):
        if label.ndim:
            raise DataError(
                f"{where}: a label is one whole number, not {_kind(label)} of shape {tuple(label.shape)}; of a one-hot "
                "vector return int(label.argmax())"
            )
        label = label.item()
    if isinstance(label, bool | np.bool_) or not isinstance(label, int | np.integer):
        way = "; return int(label)" if isinstance(label, bool | np.bool_ | float | np.floating) else ""
        raise DataError(
            f"{where}: a label is a whole number from 0, the place of its class, not {_kind(label)} {label!r:.60}{way}"
        )
    if label < 0:
        raise DataError(
            f"{where}: a label is a whole number from 0, not {label}; leave out what has no class"
        )
    return int(label)


def pixels_in(values: Array, layout: Layout) -> Array:
    """The array (H, W, C) in a layout: (C, H, W); black where it has other channels than that."""
    if values.shape[2] not in (1, layout.channels):
        return np.zeros(layout.shape, layout.dtype)  # a layout that cannot be the final one
    return decode.pixels_in(values.transpose(2, 0, 1), values.dtype != np.uint8, layout)


def _kind(value: Any) -> str:
    return f"{type(value).__module__.partition('.')[0]}.{type(value).__name__}".removeprefix("builtins.")
