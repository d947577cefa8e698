"""`Layout`: what all images of a set become, and `Images`, which become it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

__all__ = ["RESIZES", "Images", "Layout"]

RESIZES = {
    "cover": "scaled to cover it and cut in the middle",
    "contain": "scaled to lie within it, black around",
    "stretch": "stretched to it",
}
"""What may become of images of another size."""


Table = np.ndarray[Any, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Layout:
    """What all images of a set become.

    Args:
        kind: "uint8", or "uint16" where 8 bits would merge values that differ.
        low, high: the values of images of more than 8 bits that become 0 and the largest of `kind`.
        resize: what becomes of images of another size, a key of `RESIZES`.
    """

    channels: int
    height: int
    width: int
    kind: str = "uint8"
    low: float = 0.0
    high: float = 255.0
    resize: str = "cover"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.channels, self.height, self.width

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """Of the pixels."""
        return np.dtype(self.kind)

    @property
    def one(self) -> int:
        """The value that is white."""
        return int(np.iinfo(self.dtype).max)

    @property
    def bytes(self) -> int:
        """Bytes of one image."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def name(self) -> str:
        """A file name that no other layout has."""
        plain = f"{self.channels}x{self.height}x{self.width}-{self.kind}"
        plain += "" if self.resize == "cover" else f"-{self.resize}"
        if (self.low, self.high) == (0.0, 255.0):
            return plain
        return f"{plain}-{hashlib.sha256(repr((self.low, self.high)).encode()).hexdigest()[:8]}"


class Images(Protocol):
    """Images that can be decoded one by one, in a fixed order; a row is the number of one.

    Args:
        source: where they come from, for messages.
        key: hex digest of what they are known by.
    """

    source: str
    key: str

    def __len__(self) -> int: ...

    def settle(
        self, rows: Table, headers: Table, size: tuple[int, int] | None, notes: list[str], resize: str
    ) -> Layout:
        """The layout of the images `rows`, as `headers.settle` decides it; rows of `headers` are filled in."""

    def each(self, count: int, work: Callable[[int], T]) -> Iterator[list[tuple[int, T]]]:
        """`work` on 0 … count − 1: a batch of numbers with their results at a time, as `opening.in_threads` does it."""

    def pixels(self, row: int, header: Any, layout: Layout) -> Table:
        """One image in a layout: (C, H, W).

        Args:
            header: its row of `HEADER`, empty where it has not been read.
        """
