"""`HEADER`: what is known of an image file before its pixels are read."""

from __future__ import annotations

from enum import IntEnum, IntFlag

import numpy as np

__all__ = ["DEEP", "GREY", "HEADER", "Flag", "Reader"]

GREY = frozenset(("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N", "F"))
DEEP = frozenset(("I", "I;16", "I;16B", "I;16L", "I;16N", "F"))  # more than 8 bits a pixel

HEADER = np.dtype([
    ("height", "<u4"), ("width", "<u4"), ("channels", "u1"), ("turn", "u1"), ("reader", "u1"), ("flags", "<u2"),
    ("low", "<f8"), ("high", "<f8"),
])  # fmt: skip
"""One row a file: height and width as seen, EXIF's orientation, its `Reader` and `Flag`s; `low` and `high` of its
values where it is deep."""


class Reader(IntEnum):
    """What reads the pixels of a file."""

    PILLOW = 0
    JPEG = 1
    DEEP_PNG = 2
    ARRAY = 3
    PAGES = 4
    TIFF = 5


class Flag(IntFlag):
    """What is known of a file."""

    READ = 1
    DEEP = 2
    ODD = 4
    SEVERAL = 8
    WIDE = 16
    ARRAY = 32
    ALPHA = 64
    PAGES = 128
    RANGED = 256
    FRACTIONS = 512
    BYTES = 1024
    EITHER = 2048
