"""`Source`: labelled images before they have a use. Whatever a data set is read from is one; the rest is the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from reborn_nas.data.augment.settings import PAPER_AUGMENTATION, Augmentation
from reborn_nas.data.cache.records import Records
from reborn_nas.data.images import ImageSet, assemble
from reborn_nas.data.parts import plan_parts
from reborn_nas.data.undecoded import Undecoded

__all__ = ["PHOTOS", "Reading", "Source", "make_images"]

PHOTOS = Augmentation(PAPER_AUGMENTATION.crop_padding, flip=True)
"""The default of images of the user's own."""

Pixels = Callable[[torch.Tensor, list[str]], torch.Tensor | Records | Undecoded]
"""Gives the images (n, C, H, W) of ascending indices (n,); what it decides is appended to the list of notes."""


@dataclass(frozen=True)
class Source:
    """Labelled images, and what they came divided into.

    Args:
        name: of the data set.
        classes: names by label.
        labels: int64 (N,), of all images that there are.
        parts: each of `listing.PARTS` that they came divided into → its indices; "train" is always there.
        pixels: reads the images that are used; the others are never read.
        augmentation: the default.
        notes: messages on how they were read.
        undivided: of a set without a test part, for the note that one is carved out: "DIR has no test/".
        validation: the name of the validation part, for a note.
        sizes: arguments of `plan_parts`, where its rules are not those of this set.
        names: of the images, for messages; their numbers where None.
    """

    name: str
    classes: Sequence[str]
    labels: torch.Tensor
    parts: Mapping[str, torch.Tensor]
    pixels: Pixels
    augmentation: Augmentation = PHOTOS
    notes: Sequence[str] = ()
    undivided: str = ""
    validation: str = ""
    sizes: Mapping[str, int] = field(default_factory=dict)
    names: Sequence[str] | None = None


@dataclass(frozen=True)
class Reading:
    """How images of the user's own become pixels; each as in `load_dataset`."""

    image_size: tuple[int, int] | None = None
    resize: str = "cover"
    stream: bool | None = None
    cache_dir: str | Path | None = None
    skip_broken: bool = False
    decode: bool = True


def make_images(
    source: Source,
    *,
    seed: int,
    fraction: float,
    flip: bool | None,
    side: tuple[int, int] | None = None,
) -> ImageSet:
    """Give each image its use, and read those that have one.

    Args:
        side: (H, W) of what a network gets, where images are kept larger.

    Raises:
        DataError: a class has too few images, or the pixels cannot be read or are all the same.
    """
    parts = plan_parts(
        source.labels,
        source.classes,
        name=source.name,
        train=source.parts["train"],
        test=source.parts.get("test"),
        validation=source.parts.get("validation"),
        seed=seed,
        fraction=fraction,
        **source.sizes,
    )
    notes = list(source.notes)
    if source.undivided:
        notes.append(
            f"{source.undivided}; a fixed stratified part of {len(parts.test)} images is the test set"
        )
    if source.validation:
        notes.append(f"the {parts.validation_size} images of {source.validation} validate in every block")
    augmentation = source.augmentation if flip is None else replace(source.augmentation, flip=flip)
    return assemble(
        source.name,
        lambda kept: source.pixels(kept, notes),
        source.labels,
        source.classes,
        parts,
        augmentation,
        notes,
        side=side,
        names=source.names,
    )
