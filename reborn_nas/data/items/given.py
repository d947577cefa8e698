"""Datasets as they are given: one for training, or one for each part; and the names of their classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, IterableDataset

from reborn_nas.data.files.listing import PARTS, part_of
from reborn_nas.errors import DataError

__all__ = ["Part", "class_names", "parts_of", "word_for"]

FORM = '{"train": …, "validation": …, "test": …}, of which the last two may be left out, or one Dataset'


@dataclass
class Part:
    """A Dataset and what it is for.

    Args:
        count: its items; None of an iterable that ends but does not say after how many.
    """

    word: str
    dataset: Any
    count: int | None
    iterable: bool


def parts_of(given: Any, what: str, *, ends: bool = False) -> tuple[Part, ...]:
    """The Datasets in the order of `PARTS`.

    Args:
        given: as the user gave it.
        what: names it in messages.
        ends: whether iterables are known to end.

    Raises:
        DataError: it has another form, or holds something that is no Dataset, or an empty one.
    """
    if isinstance(given, tuple | list):
        raise DataError(
            f"{what}: {len(given)} values without names may be for validation or for the test; give {FORM}"
        )
    found = dict(given) if isinstance(given, Mapping) else {"train": given}
    found = {part_of(str(key)) or str(key): value for key, value in found.items() if value is not None}
    if unknown := sorted(found.keys() - set(PARTS)):
        raise DataError(f"{what}: has {', '.join(map(repr, unknown))}, but the parts are {FORM}")
    if "train" not in found:
        raise DataError(f"{what}: has no 'train'; give {FORM}")
    return tuple(_part(word, found[word], what, ends) for word in PARTS if word in found)


def _part(word: str, dataset: Any, what: str, ends: bool) -> Part:
    where, kind = f"{what}: the {word} part", type(dataset).__name__
    if isinstance(dataset, DataLoader):
        raise DataError(f"{where} is a DataLoader; give its Dataset, loader.dataset")
    if isinstance(dataset, type) or not (hasattr(dataset, "__getitem__") or hasattr(dataset, "__iter__")):
        raise DataError(f"{where} is {_shown(dataset)}, which is no Dataset: give {FORM}")
    iterable = isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__")
    try:
        count = len(dataset)
    except (TypeError, NotImplementedError):
        if not iterable:
            raise DataError(
                f"{where}: {kind} has no len(), so that nothing says how many items it has"
            ) from None
        if not ends:
            raise DataError(
                f"{where}: the iterable {kind} has no len(), so that nothing says where it ends; give it __len__, or "
                "a Dataset with __getitem__"
            ) from None
        count = 0
    if not count and not (iterable and ends):
        raise DataError(f"{where} is empty: len({kind}) is 0")
    return Part(word, dataset, count or None, iterable)


def word_for(dataset: Any) -> str:
    """What a Dataset is called: its class, or that of what it is a part of."""
    inner = getattr(dataset, "dataset", None)
    return type(dataset).__name__ if inner is None or inner is dataset else word_for(inner)


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, type | str | int | float) else f"a {type(value).__name__}"


def class_names(parts: Sequence[Part], what: str) -> tuple[str, ...] | None:
    """The names that the Datasets have for their classes; None where they have none.

    Raises:
        DataError: they have different ones, or a class without a name.
    """
    found = {part.word: names for part in parts if (names := _names(part.dataset, what)) is not None}
    for (word, names), (other, others) in pairwise(found.items()):
        if names != others:
            k = next(
                (k for k, (a, b) in enumerate(zip(names, others)) if a != b), min(len(names), len(others))
            )
            raise DataError(
                f"{what}: the classes of the {word} and the {other} part differ: number {k} is "
                f"{_at(names, k)} in one and {_at(others, k)} in the other"
            )
    return next(iter(found.values()), None)


def _at(names: Sequence[str], k: int) -> str:
    return repr(names[k]) if k < len(names) else "missing"


def _names(dataset: Any, what: str) -> tuple[str, ...] | None:
    """`.classes`, else `.class_to_idx`, of a Dataset or of what it is made of."""
    classes = getattr(dataset, "classes", None)
    if isinstance(classes, np.ndarray):
        classes = classes.tolist()
    if isinstance(classes, list | tuple) and classes:
        return tuple(map(_name, classes))
    places = getattr(dataset, "class_to_idx", None)
    if isinstance(places, Mapping) and places:
        ordered = sorted(places.items(), key=lambda item: item[1])
        if [place for _, place in ordered] != list(range(len(ordered))):
            raise DataError(
                f"{what}: class_to_idx numbers {len(ordered)} classes, but not 0 … {len(ordered) - 1}, each once"
            )
        return tuple(_name(name) for name, _ in ordered)
    inner = [getattr(dataset, "reader", None), getattr(dataset, "dataset", None)]
    several = getattr(dataset, "datasets", None)
    inner += list(several) if isinstance(several, list | tuple) else []
    return next(
        (names for one in inner if one is not None and (names := _names(one, what)) is not None), None
    )


def _name(value: Any) -> str:
    """A class's name; of several words for one class, as torchvision's ImageNet has, the first."""
    return str(value[0]) if isinstance(value, list | tuple) and value else str(value)
