"""Images as NumPy arrays (`.npy`): any number of channels up to 16, whole numbers or fractions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from reborn_nas.data.files.opening import BrokenImagesError
from reborn_nas.errors import blame_machine

__all__ = ["MOST_CHANNELS", "read_array"]

MOST_CHANNELS = 16


def read_array(file: Path) -> np.ndarray[Any, Any]:
    """The array as (H, W, C), its values not read yet.

    Two axes are one channel. Of three, the last are the channels if there are at most 16, else the first.

    Raises:
        BrokenImagesError: it is not such an array.
    """
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
        if array.dtype.kind not in "uif":
            raise ValueError(f"its values are {array.dtype}; whole numbers or fractions are read")
        if array.ndim == 2:
            array = array[:, :, None]
        elif array.ndim == 3 and array.shape[2] > MOST_CHANNELS >= array.shape[0]:
            array = array.transpose(1, 2, 0)
        if array.ndim != 3 or 0 in array.shape or array.shape[2] > MOST_CHANNELS:
            raise ValueError(
                f"its shape is {array.shape}; (H, W), (H, W, C) and (C, H, W) are read, C at most 16"
            )
        return array
    except Exception as error:
        blame_machine(error, f"image {file}")
        raise BrokenImagesError([(file, str(error) or type(error).__name__)]) from error
