"""What follows from all pixels of a set: mean and deviation of its channels, and its fingerprint."""

from __future__ import annotations

import hashlib
import math
import zlib
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch

__all__ = ["Pixels", "image_sums", "pixels_of_memory"]

_BLOCK = 256
"""The squares of so many bytes add up to less than 2**24, which float32 counts exactly."""

_ODD = np.random.default_rng(0).integers(1 << 63, dtype=np.uint64, size=2 * 4096) * np.uint64(2) + np.uint64(
    1
)
"""Factors that mix sums into 64 bits."""

_CHUNK = 1 << 24  # pixels handled at once, so that the float copies of a large set stay small

Table = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Pixels:
    """What is known of the pixels of N images.

    Args:
        sums: uint64 (N, C, 2), of each image's channels the sum of the values and of their squares.
        checks: uint32 (N,), CRC-32 of each image.
        area: pixels of a channel.
        one: the value that is white.
    """

    sums: Table
    checks: Table
    area: int
    one: int

    def fingerprint(self, start: bytes, end: bytes) -> str:
        """SHA-256 of the checksums between `start` and `end`."""
        return hashlib.sha256(start + self.checks.astype("<u4").tobytes() + end).hexdigest()

    def statistics(self, indices: Table) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel over some images, pixels in [0, 1]; exact."""
        count, mean, std = len(indices) * self.area, [], []
        for channel in self.sums[indices].swapaxes(0, 1):
            total, squares = (_total(values) for values in channel.T)
            mean.append(float(Fraction(total, max(1, count * self.one))))
            variance = Fraction(count * squares - total**2, max(1, count * self.one) ** 2)
            std.append(math.sqrt(variance))
        return tuple(mean), tuple(std)

    def contrast(self, indices: Table) -> float:
        """The standard deviation within an image, in [0, 1]: the median over some images, of the least channel."""
        mean, squares = np.moveaxis(
            self.sums[indices] / (self.area * np.array([self.one, self.one**2])), 2, 0
        )
        return float(np.median(np.sqrt((squares - mean**2).clip(min=0)), axis=0).min())

    def groups(self) -> Table | None:
        """int64 (N,), the same number for images of equal pixels; None where no two are equal.

        They are told apart by their checksum and by their sums.
        """
        mixed = self.sums.reshape(len(self.sums), -1) @ _ODD[: self.sums[0].size]
        keys = self.checks.astype(np.uint64) << np.uint64(32) | mixed >> np.uint64(32)
        distinct, numbers = np.unique(keys, return_inverse=True)
        return None if len(distinct) == len(keys) else numbers

    @property
    def constant(self) -> int | None:
        """The value that all pixels have; None where they differ."""
        first, square = (int(value) for value in self.sums[0, 0])
        same = first**2 == square * self.area and bool((self.sums == self.sums[0, 0]).all())
        return first // self.area if same else None


def _total(values: Table) -> int:
    """The sum of uint64 values, however large."""
    low, high = values & np.uint64(0xFFFFFFFF), values >> np.uint64(32)
    return int(low.sum()) + (int(high.sum()) << 32)


def image_sums(images: Table) -> Table:
    """uint64 (N, C, 2): the sum of each channel's values and of their squares, exact, of images (N, C, H, W)."""
    N, C = images.shape[:2]
    lines = images.reshape(N * C, -1)
    exact = np.float32 if images.dtype.itemsize == 1 else np.float64
    blocks = lines.shape[1] // _BLOCK
    found = np.zeros((N * C, 2), np.uint64)
    parts = (lines[:, : blocks * _BLOCK].reshape(N * C, blocks, _BLOCK), lines[:, None, blocks * _BLOCK :])
    for part in parts:
        if part.size:
            values: Table = part.astype(exact)
            found[:, 0] += values.sum(2).astype(np.uint64).sum(1)
            squares: Any = np.einsum("abk,abk->ab", values, values)  # type: ignore[arg-type]
            found[:, 1] += squares.astype(np.uint64).sum(1)
    return found.reshape(N, C, 2)


def pixels_of_memory(images: torch.Tensor) -> Pixels:
    """Of images (N, C, H, W) in memory, contiguous."""
    array = images.numpy()
    N, C, H, W = array.shape
    sums = np.empty((N, C, 2), np.uint64)
    step = max(1, _CHUNK // (C * H * W))
    for first in range(0, N, step):
        sums[first : first + step] = image_sums(array[first : first + step])
    checks = np.fromiter((zlib.crc32(image.data) for image in array), np.uint32, N)
    return Pixels(sums, checks, H * W, int(np.iinfo(array.dtype).max))
