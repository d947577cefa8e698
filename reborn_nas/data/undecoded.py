"""`Undecoded`: images of a plan, of which only those that are looked at are decoded."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import numpy as np
import torch

from reborn_nas.data.files.headers import HEADER
from reborn_nas.data.files.layout import Images, Layout
from reborn_nas.data.files.opening import BrokenImagesError
from reborn_nas.data.statistics import Pixels, pixels_of_memory

__all__ = ["Undecoded"]

SAMPLE = 64
"""Images whose pixels stand for those of all."""


class Undecoded:
    """Images (N, C, H, W) that are files yet, indexed like the tensor of them.

    Args:
        images: decodes them.
        rows: (N,), which of them these are.
        layout: what they will become.
        streamed: whether they will be read from a cache, not held in memory.
        skip_broken: images that cannot be read are black, instead of an error.
    """

    def __init__(
        self, images: Images, rows: np.ndarray[Any, Any], layout: Layout, streamed: bool, skip_broken: bool
    ) -> None:
        self._images, self._rows, self._layout, self._skip = images, rows, layout, skip_broken
        self.streamed = streamed
        self.shape = torch.Size((len(rows), *layout.shape))
        self.dtype: torch.dtype = getattr(torch, layout.kind)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        """Bytes of the images once they are decoded."""
        return len(self) * self._layout.bytes

    def __getitem__(self, rows: torch.Tensor | slice) -> torch.Tensor:
        """The images `rows`, an int64 tensor (n,) or a slice: (n, C, H, W).

        Raises:
            BrokenImagesError: files that are no whole image.
        """
        wanted = self._rows[rows if isinstance(rows, slice) else rows.numpy()]
        pixels = np.zeros((len(wanted), *self._layout.shape), self._layout.dtype)
        unread = np.zeros(1, HEADER)[0]

        def fill(k: int) -> None:
            pixels[k] = self._images.pixels(int(wanted[k]), unread, self._layout)

        try:
            for _ in self._images.each(len(wanted), fill):
                pass
        except BrokenImagesError:
            if not self._skip:
                raise
        return torch.from_numpy(pixels)

    def begin(self, rows: torch.Tensor, *, pinned: bool = False) -> Future[torch.Tensor]:
        """The images, as a result that is there already."""
        done: Future[torch.Tensor] = Future()
        done.set_result(self[rows].pin_memory() if pinned else self[rows])
        return done

    def known(self) -> Pixels:
        """What some of the images let expect of all."""
        rows = torch.linspace(0, len(self) - 1, min(SAMPLE, len(self))).long()
        sample = pixels_of_memory(self[rows])
        nearest = np.arange(len(self)) * len(rows) // len(self)
        return Pixels(sample.sums[nearest], sample.checks[nearest], sample.area, sample.one)
