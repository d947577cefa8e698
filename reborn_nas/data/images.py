"""`ImageSet`: labelled images, with a fixed use for each; `split` divides them for one block."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F

from reborn_nas.data.augment.settings import Augmentation
from reborn_nas.data.cache.records import Records
from reborn_nas.data.parts import Parts, draw_stratified
from reborn_nas.errors import DataError
from reborn_nas.seeds import derive_seed

_CHUNK = 1 << 24  # pixels handled at once, so that the float copies of a large set stay small


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images and what each may be used for. No image has two uses.

    Args:
        name: as given to `load_dataset`.
        images: uint8 (N, C, H, W): a tensor in host memory, or `Records` on disk, which are indexed alike.
        labels: int64 (N,).
        classes: names by label.
        pool: indices for training and validation; `split` divides them, afresh in each block.
        reserve: indices kept for the retest.
        test: indices of the test set.
        mean, std: of each channel over the pool's training images, pixels in [0, 1].
        augmentation: the default of this set.
        validation_size: validation images that `split` takes from the pool.
        validation: indices of a validation part that the user fixed (`val/`); then every block has the same.
        fingerprint: SHA-256 of images, labels, classes and parts.
        notes: messages on how this set was read.
    """

    name: str
    images: torch.Tensor | Records
    labels: torch.Tensor
    classes: tuple[str, ...]
    pool: torch.Tensor
    reserve: torch.Tensor
    test: torch.Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation
    validation_size: int
    fingerprint: str
    notes: tuple[str, ...] = ()
    validation: torch.Tensor | None = None

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        _, C, H, W = self.images.shape
        return C, H, W

    @property
    def memory(self) -> int:
        """Bytes of host memory that the images take in each process."""
        return 0 if isinstance(self.images, Records) else self.images.nbytes

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    def counts(self, indices: torch.Tensor) -> list[int]:
        """Of the images `indices`, how many each class has."""
        found: list[int] = torch.bincount(self.labels[indices], minlength=len(self.classes)).tolist()
        return found


@dataclass(frozen=True, eq=False)
class Split:
    """Indices of one block's training and validation images, ascending."""

    train: torch.Tensor
    validation: torch.Tensor


def split(images: ImageSet, *, block: int, seed: int, validation: int | None = None) -> Split:
    """Training and validation images of block `block`: a fresh stratified division of the pool for each block.

    Where the user fixed the validation images (`val/`), every block has those.

    Args:
        validation: number of validation images; the set's own `validation_size` without it.

    Raises:
        DataError: more validation images than the pool can give up.
    """
    pool, fixed = images.pool, images.validation
    if fixed is not None and validation is None:
        return Split(pool[~torch.isin(pool, fixed)], fixed)
    size = images.validation_size if validation is None else validation
    if not 1 <= size < len(pool):
        raise DataError(
            f"data set {images.name!r}: {size} validation images were asked for, but they come out of the pool of "
            f"{len(pool)}; take between {images.num_classes} and {len(pool) - images.num_classes}"
        )
    taken = draw_stratified(images.labels, pool, size, seed=derive_seed(seed, "split", block), keep=1)
    return Split(pool[~torch.isin(pool, taken)], taken)


def assemble(
    name: str,
    pixels: Callable[[torch.Tensor], torch.Tensor | Records],
    labels: torch.Tensor,
    classes: Sequence[str],
    parts: Parts,
    augmentation: Augmentation,
    notes: Sequence[str] = (),
) -> ImageSet:
    """The image set made of the images that `parts` names; the others are never read.

    Args:
        pixels: gives the uint8 images (n, C, H, W) of ascending indices (n,), as a tensor or as records.
        labels: int64, of all images that there are.
    """
    kept, parts = parts.compact()
    images, labels = pixels(kept), labels[kept].contiguous()
    if isinstance(images, torch.Tensor):
        images = images.contiguous()
    if images.dtype != torch.uint8 or len(images.shape) != 4 or len(images) != len(labels):
        raise DataError(
            f"data set {name!r}: images are uint8 (N, C, H, W), one per label, not {images.dtype} "
            f"{tuple(images.shape)} for {len(labels)} labels"
        )
    trained = parts.pool
    if parts.validation is not None:
        trained = trained[~torch.isin(trained, parts.validation)]
    start, end = _described(images, labels, classes, parts)
    if isinstance(images, Records):
        question = hashlib.sha256(start + end + trained.numpy().tobytes()).hexdigest()
        found = images.remembered(question, lambda: _survey(images, trained, start, end))
    else:
        found = _survey(images, trained, start, end)
    if found["constant"] is not None:
        raise DataError(
            f"data set {name!r}: every pixel of all {len(images)} images is {found['constant']}; nothing can be "
            "learned from it"
        )
    return ImageSet(
        name=name,
        images=images,
        labels=labels,
        classes=tuple(classes),
        pool=parts.pool,
        reserve=parts.reserve,
        test=parts.test,
        mean=tuple(found["mean"]),
        std=tuple(found["std"]),
        augmentation=augmentation,
        validation_size=parts.validation_size,
        fingerprint=found["fingerprint"],
        notes=tuple(notes),
        validation=parts.validation,
    )


def as_rgb(images: ImageSet) -> ImageSet:
    """The same images with three equal channels where they are grey, for networks and weights of three.

    Raises:
        DataError: they have two channels or more than three, or are streamed from disk.
    """
    channels = images.input_size[0]
    if channels == 3:
        return images
    if channels != 1 or not isinstance(images.images, torch.Tensor):
        why = f"these have {channels} channels" if channels != 1 else "these are streamed from disk"
        raise DataError(
            f"data set {images.name!r}: rgb is for grey images in memory, but {why}; leave it out"
        )
    return replace(
        images,
        images=images.images.repeat(1, 3, 1, 1),
        mean=images.mean * 3,
        std=images.std * 3,
        fingerprint=hashlib.sha256(f"{images.fingerprint}|rgb".encode()).hexdigest(),
        notes=(*images.notes, "grey images are read as RGB: three equal channels"),
    )


def channel_statistics(
    images: torch.Tensor | Records, indices: torch.Tensor
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, pixels in [0, 1]; exact, from the 256 counts of the values.

    A channel that never varies gets the deviation 1, so that dividing by it is harmless.
    """
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    step = _step(images)
    for first in range(0, len(indices), step):
        _count(counts, images[indices[first : first + step]])
    return _statistics(counts)


def _count(counts: torch.Tensor, images: torch.Tensor) -> None:
    """Add the values of `images` to the counts (C, 256)."""
    for channel, row in enumerate(counts):
        row += torch.bincount(images[:, channel].flatten(), minlength=256)


def _statistics(counts: torch.Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    values = torch.arange(256, dtype=torch.float64) / 255
    weights = counts.double() / counts.sum(1, keepdim=True).clamp(min=1)
    mean = weights @ values
    spread = ((values[None] - mean[:, None]) ** 2 * weights).sum(1).sqrt()
    spread[spread == 0] = 1.0
    return tuple(mean.tolist()), tuple(spread.tolist())


def _step(images: torch.Tensor | Records) -> int:
    """Images that are looked at at once."""
    return max(1, _CHUNK // math.prod(images.shape[1:]))


def _survey(
    images: torch.Tensor | Records, trained: torch.Tensor, start: bytes, end: bytes
) -> dict[str, Any]:
    """What follows from all pixels, in one pass: the fingerprint, mean and std of the images `trained`, and the value
    that all pixels have, None where they differ.
    """
    digest = hashlib.sha256(start)
    used = torch.zeros(len(images), dtype=torch.bool)
    used[trained] = True
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    value: int | None = None
    same, step = True, _step(images)
    for first in range(0, len(images), step):
        chunk = images[first : first + step]
        digest.update(chunk.numpy().data)
        _count(counts, chunk[used[first : first + step]])
        if same:
            value = int(chunk.flatten()[0]) if value is None else value
            same = bool((chunk == value).all())
    digest.update(end)
    mean, std = _statistics(counts)
    return {"fingerprint": digest.hexdigest(), "mean": mean, "std": std, "constant": value if same else None}


def resize(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """uint8 images (N, C, H, W) at another height and width, bilinear with antialiasing."""
    N, C, H, W = images.shape
    if size == (H, W):
        return images
    out = torch.empty(N, C, *size, dtype=torch.uint8)
    step = max(1, _CHUNK // (C * max(H * W, size[0] * size[1])))
    for first in range(0, N, step):
        chunk = images[first : first + step].float()
        resized = F.interpolate(chunk, size=size, mode="bilinear", antialias=True)
        out[first : first + step] = resized.round_().clamp_(0, 255).to(torch.uint8)
    return out


def _described(
    images: torch.Tensor | Records, labels: torch.Tensor, classes: Sequence[str], parts: Parts
) -> tuple[bytes, bytes]:
    """What the fingerprint covers before the pixels and after them."""
    start = repr((tuple(images.shape), tuple(classes), parts.validation_size)).encode()
    start += f"|{len(images)}|".encode()
    fixed = parts.validation if parts.validation is not None else torch.empty(0, dtype=torch.int64)
    end = b"".join(
        f"|{len(tensor)}|".encode() + tensor.contiguous().numpy().tobytes()
        for tensor in (labels, parts.pool, parts.reserve, parts.test, fixed)
    )
    return start, end
