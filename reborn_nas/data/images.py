"""`ImageSet`: labelled images in host memory, with a fixed use for each; `split` divides them for one block."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from reborn_nas.data.augment.settings import Augmentation
from reborn_nas.data.parts import Parts, draw_stratified
from reborn_nas.errors import DataError
from reborn_nas.seeds import derive_seed

_CHUNK = 1 << 24  # pixels handled at once, so that the float copies of a large set stay small


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images and what each may be used for. No image has two uses.

    Args:
        name: as given to `load_dataset`.
        images: uint8 (N, C, H, W) in host memory.
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
    images: torch.Tensor
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
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)


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
    pixels: Callable[[torch.Tensor], torch.Tensor],
    labels: torch.Tensor,
    classes: Sequence[str],
    parts: Parts,
    augmentation: Augmentation,
    notes: Sequence[str] = (),
) -> ImageSet:
    """The image set made of the images that `parts` names; the others are never read.

    Args:
        pixels: gives the uint8 images (n, C, H, W) of ascending indices (n,).
        labels: int64, of all images that there are.
    """
    kept, parts = parts.compact()
    images, labels = pixels(kept).contiguous(), labels[kept].contiguous()
    if images.dtype != torch.uint8 or images.ndim != 4 or len(images) != len(labels):
        raise DataError(
            f"data set {name!r}: images are uint8 (N, C, H, W), one per label, not {images.dtype} "
            f"{tuple(images.shape)} for {len(labels)} labels"
        )
    if _is_constant(images):
        raise DataError(
            f"data set {name!r}: every pixel of all {len(images)} images is {int(images.flatten()[0])}; nothing can be "
            "learned from it"
        )
    trained = parts.pool
    if parts.validation is not None:
        trained = trained[~torch.isin(trained, parts.validation)]
    mean, std = channel_statistics(images, trained)
    return ImageSet(
        name=name,
        images=images,
        labels=labels,
        classes=tuple(classes),
        pool=parts.pool,
        reserve=parts.reserve,
        test=parts.test,
        mean=mean,
        std=std,
        augmentation=augmentation,
        validation_size=parts.validation_size,
        fingerprint=_fingerprint(images, labels, classes, parts),
        notes=tuple(notes),
        validation=parts.validation,
    )


def channel_statistics(
    images: torch.Tensor, indices: torch.Tensor
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, pixels in [0, 1]; exact, from the 256 counts of the values.

    A channel that never varies gets the deviation 1, so that dividing by it is harmless.
    """
    _, C, H, W = images.shape
    counts = torch.zeros(C, 256, dtype=torch.int64)
    step = max(1, _CHUNK // (C * H * W))
    for first in range(0, len(indices), step):
        chunk = images[indices[first : first + step]]
        for channel in range(C):
            counts[channel] += torch.bincount(chunk[:, channel].flatten(), minlength=256)
    values = torch.arange(256, dtype=torch.float64) / 255
    weights = counts.double() / counts.sum(1, keepdim=True).clamp(min=1)
    mean = weights @ values
    spread = ((values[None] - mean[:, None]) ** 2 * weights).sum(1).sqrt()
    spread[spread == 0] = 1.0
    return tuple(mean.tolist()), tuple(spread.tolist())


def _is_constant(images: torch.Tensor) -> bool:
    """Whether all pixels of all images are equal; ends at the first that is not."""
    step = max(1, _CHUNK // images[0].numel())
    first = images.flatten()[0]
    return all(bool((images[k : k + step] == first).all()) for k in range(0, len(images), step))


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


def _fingerprint(images: torch.Tensor, labels: torch.Tensor, classes: Sequence[str], parts: Parts) -> str:
    digest = hashlib.sha256(repr((tuple(images.shape), tuple(classes), parts.validation_size)).encode())
    fixed = parts.validation if parts.validation is not None else torch.empty(0, dtype=torch.int64)
    for tensor in (images, labels, parts.pool, parts.reserve, parts.test, fixed):
        digest.update(f"|{len(tensor)}|".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()
