"""`ImageSet`: labelled images, with a fixed use for each; `split` divides them for one block."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from reborn_nas.data.augment.settings import Augmentation
from reborn_nas.data.cache.records import Records
from reborn_nas.data.parts import Parts, draw_stratified
from reborn_nas.data.statistics import Pixels, pixels_of_memory
from reborn_nas.data.undecoded import Undecoded
from reborn_nas.errors import DataError
from reborn_nas.seeds import derive_seed

_CHUNK = 1 << 24  # pixels handled at once, so that the float copies of a large set stay small

_KINDS = (torch.uint8, torch.uint16)

_FEW_LEVELS = 64
"""A standard deviation of fewer levels of uint16 is coarser than that of a photo in 8 bits."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images and what each may be used for. No image has two uses.

    Args:
        name: as given to `load_dataset`.
        images: uint8 or uint16 (N, C, H, W): a tensor in host memory, `Records` on disk, or, of a
            plan, files that are `Undecoded`; all are indexed alike.
        labels: int64 (N,).
        classes: names by label.
        pool: indices for training and validation; `split` divides them, afresh in each block.
        reserve: indices kept for the retest.
        test: indices of the test set.
        mean, std: of each channel over the pool's training images, pixels in [0, 1].
        augmentation: the default of this set.
        validation_size: validation images that `split` takes from the pool.
        validation: indices of a validation part that the user fixed (`val/`); then every block has the same.
        fingerprint: SHA-256 of images, labels, classes and parts; empty while the images are not decoded.
        notes: messages on how this set was read.
        shown: (C, H, W) of what a network gets, where that is not an image as it is kept: of higher and wider images
            a part, and grey ones three times.
    """

    name: str
    images: torch.Tensor | Records | Undecoded
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
    shown: tuple[int, int, int] | None = None

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(C, H, W) of what a network gets."""
        _, C, H, W = self.images.shape
        return self.shown or (C, H, W)

    @property
    def one(self) -> int:
        """The value of white pixels."""
        return int(torch.iinfo(self.images.dtype).max)

    @property
    def memory(self) -> int:
        """Bytes of host memory that the images take in each process."""
        streamed = isinstance(self.images, Records) or (
            isinstance(self.images, Undecoded) and self.images.streamed
        )
        return 0 if streamed else self.images.nbytes

    @property
    def planned(self) -> bool:
        """Whether the images are not decoded; mean and deviation are then those of a sample."""
        return isinstance(self.images, Undecoded)

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
    pixels: Callable[[torch.Tensor], torch.Tensor | Records | Undecoded],
    labels: torch.Tensor,
    classes: Sequence[str],
    parts: Parts,
    augmentation: Augmentation,
    notes: Sequence[str] = (),
    *,
    side: tuple[int, int] | None = None,
    names: Sequence[str] | None = None,
) -> ImageSet:
    """The image set made of the images that `parts` names; the others are never read.

    Args:
        pixels: gives the uint8 or uint16 images (n, C, H, W) of ascending indices (n,), as a tensor or as records.
        labels: int64, of all images that there are.
        side: (H, W) of what a network gets, no larger than the images; as they are where None.
        names: of all images, for messages; their numbers where None.
    """
    kept, parts = parts.compact()
    images, labels = pixels(kept), labels[kept].contiguous()
    if isinstance(images, torch.Tensor):
        images = images.contiguous()
    if images.dtype not in _KINDS or len(images.shape) != 4 or len(images) != len(labels):
        raise DataError(
            f"data set {name!r}: images are uint8 or uint16 (N, C, H, W), one per label, not {images.dtype} "
            f"{tuple(images.shape)} for {len(labels)} labels"
        )
    trained = parts.pool
    if parts.validation is not None:
        trained = trained[~torch.isin(trained, parts.validation)]
    C, H, W = images.shape[1:]
    shown = None if side in (None, (H, W)) else (C, *side)
    start, end = _described(images, labels, classes, parts, shown)
    known = known_pixels(images)
    decoded = not isinstance(images, Undecoded)
    if decoded and known.constant is not None:
        raise DataError(
            f"data set {name!r}: every pixel of all {len(images)} images is {known.constant}; nothing can be "
            "learned from it"
        )
    mean, std = known.statistics(trained.numpy())
    notes = list(notes)
    if decoded:
        notes += _equal_images(
            known, labels, parts, lambda k: names[int(kept[k])] if names else f"number {int(kept[k])}"
        )
    if known.one > 255 and known.contrast(trained.numpy()) * known.one < _FEW_LEVELS:
        notes.append(
            f"in half of the images the standard deviation is below {_FEW_LEVELS} of the 65,536 levels that span all "
            "values; cut outliers off, or take the logarithm, before"
        )
    return ImageSet(
        name=name,
        images=images,
        labels=labels,
        classes=tuple(classes),
        pool=parts.pool,
        reserve=parts.reserve,
        test=parts.test,
        mean=mean,
        std=tuple(spread or 1.0 for spread in std),  # so that dividing by it is harmless where nothing varies
        augmentation=augmentation,
        validation_size=parts.validation_size,
        fingerprint=known.fingerprint(start, end) if decoded else "",
        notes=tuple(notes),
        validation=parts.validation,
        shown=shown,
    )


def _equal_images(known: Pixels, labels: torch.Tensor, parts: Parts, name: Callable[[int], str]) -> list[str]:
    """Notes on images whose pixels are those of an image of another class, or of another use."""
    numbers = known.groups()
    if numbers is None:
        return []
    use = np.zeros(len(numbers), np.int64)
    use[parts.reserve.numpy()], use[parts.test.numpy()] = 1, 2
    if parts.validation is not None:
        use[parts.validation.numpy()] = 3
    notes = []
    for values, what in ((labels.numpy(), "of another class"), (use, "of another part")):
        order = np.lexsort((values, numbers))
        differ = (np.diff(numbers[order]) == 0) & (np.diff(values[order]) != 0)
        if count := int(differ.sum()):
            at = int(differ.argmax())
            one, other = (name(int(order[k])) for k in (at, at + 1))
            notes.append(
                f"{count} pairs of images have equal pixels, one of them {what} than the other, such as {one} "
                f"and {other}"
            )
    return notes


def as_rgb(images: ImageSet) -> ImageSet:
    """The same images, of which networks get three equal channels where they are grey; they are kept as they were.

    Raises:
        DataError: they have two channels or more than three.
    """
    channels, H, W = images.input_size
    if channels == 3:
        return images
    if channels != 1:
        raise DataError(
            f"data set {images.name!r}: rgb is for grey images, but these have {channels} channels; leave it out"
        )
    return replace(
        images,
        shown=(3, H, W),
        mean=images.mean * 3,
        std=images.std * 3,
        fingerprint=hashlib.sha256(f"{images.fingerprint}|rgb".encode()).hexdigest()
        if images.fingerprint
        else "",
        notes=(*images.notes, "grey images are read as RGB: three equal channels"),
    )


def earlier_fingerprint(images: ImageSet) -> str:
    """The fingerprint of `images` as versions before checksums computed it, of all pixels; it reads every image."""
    parts = Parts(images.pool, images.reserve, images.test, images.validation_size, images.validation)
    start, end = _described(images.images, images.labels, images.classes, parts, images.shown)
    digest = hashlib.sha256(start)
    _, C, H, W = images.images.shape
    step = max(1, _CHUNK // (C * H * W))
    for first in range(0, len(images.images), step):
        digest.update(images.images[first : first + step].contiguous().numpy().data)
    digest.update(end)
    return digest.hexdigest()


def with_checksums(settings: Mapping[str, Any], images: ImageSet) -> Mapping[str, Any]:
    """Settings that an earlier version wrote, with the fingerprint as it is now if they are of the same images."""
    data = settings.get("data") or {}
    before = data.get("fingerprint")
    if before in (None, images.fingerprint) or before != earlier_fingerprint(images):
        return settings
    return {**settings, "data": {**data, "fingerprint": images.fingerprint}}


def known_pixels(images: torch.Tensor | Records | Undecoded) -> Pixels:
    """What is known of all images; of records without reading them."""
    return pixels_of_memory(images) if isinstance(images, torch.Tensor) else images.known()


def channel_statistics(
    images: torch.Tensor | Records | Undecoded, indices: torch.Tensor
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over some images, pixels in [0, 1]; exact.

    A channel that never varies gets the deviation 1, so that dividing by it is harmless.
    """
    mean, std = known_pixels(images).statistics(indices.numpy())
    return mean, tuple(spread or 1.0 for spread in std)


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
    images: torch.Tensor | Records | Undecoded,
    labels: torch.Tensor,
    classes: Sequence[str],
    parts: Parts,
    shown: tuple[int, int, int] | None,
) -> tuple[bytes, bytes]:
    """What the fingerprint covers before the pixels and after them."""
    more = [] if images.dtype == torch.uint8 else [str(images.dtype)]
    more += [] if shown is None else [str(shown)]
    start = repr((tuple(images.shape), tuple(classes), parts.validation_size, *more)).encode()
    start += f"|{len(images)}|".encode()
    fixed = parts.validation if parts.validation is not None else torch.empty(0, dtype=torch.int64)
    end = b"".join(
        f"|{len(tensor)}|".encode() + tensor.contiguous().numpy().tobytes()
        for tensor in (labels, parts.pool, parts.reserve, parts.test, fixed)
    )
    return start, end
