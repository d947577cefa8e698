"""A part of an image set, ready on the device: batches of normalised images without a data loader.

The whole set lies on the device as it is kept, once, however many parts and trainings use it. One too large for that
stays in host memory, or on the disk, and comes over in chunks, one ahead of the training; the interface is the same.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import torch

from reborn_nas.data.augment import Augmentation, Draws
from reborn_nas.data.augment.crops import taken
from reborn_nas.data.cache.records import Records
from reborn_nas.data.images import ImageSet
from reborn_nas.data.undecoded import Undecoded
from reborn_nas.seeds import derive_seed, generator

SHARE = 0.5
"""A set lies on the device when it takes at most this share of the device memory that is free."""

CHUNK_BYTES = {"cpu": 1 << 20, "cuda": 1 << 26}
"""Float bytes prepared at once: several batches in one go, as a gather of few images costs more than it moves."""

_Chunk = tuple[torch.Tensor, torch.Tensor] | Future[torch.Tensor]
"""Pixels and labels on their way to the device, or pixels that are being read."""

_on_device: weakref.WeakKeyDictionary[ImageSet, dict[str, tuple[torch.Tensor, torch.Tensor]]] = (
    weakref.WeakKeyDictionary()
)


class Resident:
    """Images `indices` of a set, as batches on a device.

    Args:
        images: the whole set.
        indices: which of them.
        device: where the batches are wanted.
        augmentation: used by `epoch`; never by `ordered`.
        streamed: copy chunks from host memory or disk instead of holding the set on the device; by default only
            where the set is too large, or on disk and wanted on a CPU.
        channels_last: memory format of the batches.
    """

    def __init__(
        self,
        images: ImageSet,
        indices: torch.Tensor,
        device: torch.device | str = "cpu",
        *,
        augmentation: Augmentation | None = None,
        streamed: bool | None = None,
        channels_last: bool = False,
    ) -> None:
        self.device = torch.device(device)
        self.augmentation = images.augmentation if augmentation is None else augmentation
        self.streamed = _too_large(images, self.device) if streamed is None else streamed
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self._indices = indices
        if self.augmentation.by_image and self.device.type != "cpu":
            self.streamed = True  # these images are changed on the host
        if self.streamed:
            self._source: torch.Tensor | Records | Undecoded = images.images
            self._labels = images.labels
            cuda = self.device.type == "cuda"
            self._copies: Any = torch.cuda.Stream(self.device) if cuda else None  # type: ignore[no-untyped-call]
        else:
            self._source, self._labels = _place(images, self.device)
        C, H, W = images.input_size
        _, self._channels, h, w = images.images.shape
        self._shown, self._kept, self._mean = (C, H, W), (h, w), images.mean
        # (pixel / one − mean) / std = pixel · scale + shift
        mean, std = torch.tensor(images.mean), torch.tensor(images.std)
        self._scale = (1 / (images.one * std)).view(1, C, 1, 1).to(self.device)
        self._shift = (-mean / std).view(1, C, 1, 1).to(self.device)
        limit = CHUNK_BYTES.get(self.device.type, CHUNK_BYTES["cpu"])
        self._chunk = max(1, limit // (4 * C * H * W))

    def __len__(self) -> int:
        return len(self._indices)

    def epoch(
        self, sizes: list[int], *, seed: int, epoch: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Batches of the given sizes in a fresh random order, augmented: float (B, C, H, W) and int64 (B,).

        Order and augmentation depend on `seed` and `epoch` only, not on the device, nor on earlier epochs.
        """
        order = torch.randperm(len(self), generator=generator(derive_seed(seed, "order", epoch)))
        rows = self._indices[order[: sum(sizes)]]
        draws = None
        if self.augmentation.active:
            draws = Draws(
                len(rows), self.augmentation, self._shown[1:], self._mean[: self._channels],
                seed=seed, epoch=epoch, kept=self._kept,
            )  # fmt: skip
        return self._batches(rows, draws, sizes)

    def ordered(self, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """All images once, in the order of the indices, without augmentation; of larger ones the middle."""
        sizes = [batch_size] * (len(self) // batch_size)
        rest = len(self) - sum(sizes)
        return self._batches(self._indices, None, sizes + [rest] * (rest > 0))

    def _batches(
        self, rows: torch.Tensor, draws: Draws | None, sizes: list[int]
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        groups = _groups(sizes, self._chunk)
        source = self._stream if self.streamed else self._gather
        for (images, labels), group in zip(source(rows, draws, [sum(g) for g in groups]), groups):
            first = 0
            for size in group:
                yield images[first : first + size], labels[first : first + size]
                first += size

    def _gather(
        self, rows: torch.Tensor, draws: Draws | None, sizes: list[int]
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        rows = _send(rows, self.device)
        draws = draws.to(self.device) if draws is not None else None
        assert isinstance(self._source, torch.Tensor)
        first = 0
        for size in sizes:
            here = slice(first, first + size)
            yield self._prepare(self._source, rows[here], draws, here), self._labels[rows[here]]
            first += size

    def _stream(
        self, rows: torch.Tensor, draws: Draws | None, sizes: list[int]
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        on_host = draws if draws is not None and draws.on_host else None
        if draws is not None and on_host is None:
            draws.to(self.device)
        groups = torch.split(rows, sizes)
        ahead = self._begin(groups[0], on_host, 0) if groups else None
        first = 0
        for k, size in enumerate(sizes):
            assert ahead is not None
            here = slice(first, first + size)
            chunk, labels = self._end(ahead, groups[k], on_host, first)
            if on_host is None:
                images = self._prepare(chunk, torch.arange(size, device=self.device), draws, here)
            else:
                images = self._normalised(chunk, draws, here)
            # begun before this chunk is trained on, so that reading and copying run beside the training
            ahead = self._begin(groups[k + 1], on_host, first + size) if k + 1 < len(groups) else None
            yield images, labels
            first += size

    def _begin(self, rows: torch.Tensor, draws: Draws | None, first: int) -> _Chunk:
        """Start to read a chunk from disk, or send one of the host's memory to the device.

        Args:
            draws: what is done on the host, from the place `first` of the epoch on.
        """
        pinned = self._copies is not None
        if not isinstance(self._source, torch.Tensor):
            return self._source.begin(rows, pinned=pinned and draws is None)
        if draws is not None:
            chunk = draws.pixels(self._source, rows, slice(first, first + len(rows)))
            return self._sent(chunk.pin_memory() if pinned else chunk, rows)
        # the chunk is page-locked, not the set: locking all of a large set could starve the host
        chunk = torch.empty(len(rows), *self._source.shape[1:], dtype=self._source.dtype, pin_memory=pinned)
        torch.index_select(self._source, 0, rows, out=chunk)
        return self._sent(chunk, rows)

    def _end(
        self, begun: _Chunk, rows: torch.Tensor, draws: Draws | None, first: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A chunk's pixels and labels, on the device for the work queued from now on."""
        if isinstance(begun, Future):
            chunk = begun.result()
            if draws is not None:  # here, as it seeds generators of the process
                chunk = draws.pixels(chunk, torch.arange(len(rows)), slice(first, first + len(rows)))
                chunk = chunk if self._copies is None else chunk.pin_memory()
            begun = self._sent(chunk, rows)
        if self._copies is not None:
            torch.cuda.current_stream(self.device).wait_stream(self._copies)
            for tensor in begun:
                tensor.record_stream(torch.cuda.current_stream(self.device))
        return begun

    def _sent(self, chunk: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self._copies is None:
            return chunk.to(self.device), self._labels[rows].to(self.device)
        with torch.cuda.stream(self._copies):
            return chunk.to(self.device, non_blocking=True), _send(self._labels[rows], self.device)

    def _prepare(
        self, source: torch.Tensor, rows: torch.Tensor, draws: Draws | None, here: slice
    ) -> torch.Tensor:
        batch = self._middle(taken(source, rows)) if draws is None else draws.pixels(source, rows, here)
        return self._normalised(batch, draws, here)

    def _middle(self, batch: torch.Tensor) -> torch.Tensor:
        (h, w), (_, H, W) = self._kept, self._shown
        top, left = (h - H) // 2, (w - W) // 2
        return batch[:, :, top : top + H, left : left + W]

    def _normalised(self, batch: torch.Tensor, draws: Draws | None, here: slice) -> torch.Tensor:
        floats = batch.to(torch.float32, memory_format=self.format)
        if self._channels != self._shown[0]:
            floats = floats.expand(-1, *self._shown).contiguous(memory_format=self.format)
        floats.mul_(self._scale).add_(self._shift)
        if draws is not None:
            draws.finish(floats, here)
        return floats


def _groups(sizes: list[int], limit: int) -> list[list[int]]:
    """Consecutive batches that are prepared together: at most `limit` images, at least one batch."""
    groups: list[list[int]] = []
    for size in sizes:
        if groups and sum(groups[-1]) + size <= limit:
            groups[-1].append(size)
        else:
            groups.append([size])
    return groups


def _too_large(images: ImageSet, device: torch.device) -> bool:
    if str(device) in _on_device.get(images, {}):
        return False
    if device.type != "cuda" or images.planned:
        return not isinstance(images.images, torch.Tensor)
    free, _ = torch.cuda.mem_get_info(device)
    return images.images.nbytes > SHARE * free


def _place(images: ImageSet, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The set's images and labels on `device`, moved there at most once."""
    placed = _on_device.setdefault(images, {})
    key = str(device)
    if key not in placed:
        pixels = images.images
        if not isinstance(pixels, torch.Tensor):
            moved = torch.empty(pixels.shape, dtype=pixels.dtype, device=device)
            step = max(1, CHUNK_BYTES["cuda"] // math.prod(pixels.shape[1:]))
            for first in range(0, len(pixels), step):
                moved[first : first + step] = pixels[first : first + step].to(device)
        else:
            moved = pixels.to(device)
        placed[key] = (moved, images.labels.to(device))
    return placed[key]


def _send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
