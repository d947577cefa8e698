"""A part of an image set, ready on the device: batches of normalised images without a data loader.

The whole set lies on the device as uint8, once, however many parts and trainings use it. A set too large for
that stays in pinned host memory and is copied over in chunks, one ahead of the training; the interface is the same.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import torch

from reborn_nas.data.augment import Augmentation, Draws
from reborn_nas.data.images import ImageSet
from reborn_nas.seeds import derive_seed, generator

SHARE = 0.5
"""A set lies on the device when it takes at most this share of the device memory that is free."""

CHUNK_BYTES = {"cpu": 1 << 20, "cuda": 1 << 26}
"""Float bytes prepared at once: several batches in one go, as a gather of few images costs more than it moves."""

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
        streamed: copy chunks from host memory instead of holding the set on the device; by default only
            where the set is too large.
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
            self._source, self._labels = images.images, images.labels
            cuda = self.device.type == "cuda"
            self._copies: Any = torch.cuda.Stream(self.device) if cuda else None  # type: ignore[no-untyped-call]
        else:
            self._source, self._labels = _place(images, self.device)
        C, H, W = images.input_size
        self._size, self._mean = (H, W), images.mean
        # (pixel / 255 − mean) / std = pixel · scale + shift
        mean, std = torch.tensor(images.mean), torch.tensor(images.std)
        self._scale = (1 / (255 * std)).view(1, C, 1, 1).to(self.device)
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
            draws = Draws(len(rows), self.augmentation, self._size, self._mean, seed=seed, epoch=epoch)
        return self._batches(rows, draws, sizes)

    def ordered(self, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """All images once, in the order of the indices, without augmentation."""
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
        ahead = self._copy(groups[0], on_host, 0) if groups else None
        first = 0
        for k, size in enumerate(sizes):
            assert ahead is not None
            (chunk, labels), here = ahead, slice(first, first + size)
            if self._copies is not None:
                torch.cuda.current_stream(self.device).wait_stream(self._copies)
                for tensor in (chunk, labels):
                    tensor.record_stream(torch.cuda.current_stream(self.device))
            if on_host is None:
                images = self._prepare(chunk, torch.arange(size, device=self.device), draws, here)
            else:
                images = self._normalised(chunk, draws, here)
            # queued before this chunk is trained on, so that the copy runs beside the training
            ahead = self._copy(groups[k + 1], on_host, first + size) if k + 1 < len(groups) else None
            yield images, labels
            first += size

    def _copy(self, rows: torch.Tensor, draws: Draws | None, first: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A chunk on its way to the device; with `draws` augmented on the host, as at the places from `first` on."""
        if draws is not None:
            chunk = draws.pixels(self._source, rows, slice(first, first + len(rows)))
            chunk = chunk if self._copies is None else chunk.pin_memory()
        elif self._copies is None:
            chunk = self._source.index_select(0, rows)
        else:
            # the chunk is page-locked, not the set: locking all of a large set could starve the host
            chunk = torch.empty(len(rows), *self._source.shape[1:], dtype=torch.uint8, pin_memory=True)
            torch.index_select(self._source, 0, rows, out=chunk)
        if self._copies is None:
            return chunk.to(self.device), self._labels[rows].to(self.device)
        with torch.cuda.stream(self._copies):
            return chunk.to(self.device, non_blocking=True), _send(self._labels[rows], self.device)

    def _prepare(
        self, source: torch.Tensor, rows: torch.Tensor, draws: Draws | None, here: slice
    ) -> torch.Tensor:
        batch = source.index_select(0, rows) if draws is None else draws.pixels(source, rows, here)
        return self._normalised(batch, draws, here)

    def _normalised(self, batch: torch.Tensor, draws: Draws | None, here: slice) -> torch.Tensor:
        floats = batch.to(torch.float32, memory_format=self.format)
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
    if device.type != "cuda" or str(device) in _on_device.get(images, {}):
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return images.images.numel() > SHARE * free


def _place(images: ImageSet, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The set's images and labels on `device`, moved there at most once."""
    placed = _on_device.setdefault(images, {})
    key = str(device)
    if key not in placed:
        placed[key] = (images.images.to(device), images.labels.to(device))
    return placed[key]


def _send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
