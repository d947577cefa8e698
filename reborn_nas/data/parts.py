"""Which image is used for what: stratified parts, disjoint and fixed for a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from reborn_nas.errors import DataError
from reborn_nas.seeds import derive_seed, generator

LARGE = 10_000
"""From this many images on, a part carved out of the training images is a tenth of them; below, a fifth."""


@dataclass(frozen=True, eq=False)
class Parts:
    """Disjoint index tensors, ascending; `validation`, where the user fixed one, lies within `pool`."""

    pool: torch.Tensor
    reserve: torch.Tensor
    test: torch.Tensor
    validation_size: int
    validation: torch.Tensor | None = None

    def compact(self) -> tuple[torch.Tensor, Parts]:
        """The indices that are used at all, ascending, and the parts renumbered into them."""
        kept = torch.cat([self.pool, self.reserve, self.test]).sort().values

        def renumber(part: torch.Tensor) -> torch.Tensor:
            return torch.searchsorted(kept, part)

        fixed = None if self.validation is None else renumber(self.validation)
        return kept, Parts(
            renumber(self.pool), renumber(self.reserve), renumber(self.test), self.validation_size, fixed
        )


def plan_parts(
    labels: torch.Tensor,
    classes: Sequence[str],
    *,
    name: str,
    train: torch.Tensor,
    test: torch.Tensor | None = None,
    validation: torch.Tensor | None = None,
    test_size: int | None = None,
    reserve_size: int | None = None,
    validation_size: int | None = None,
    seed: int = 0,
    fraction: float = 1.0,
) -> Parts:
    """Divide images into pool, reserve and test, each stratified by class, then thin all of them to `fraction`.

    Args:
        labels: int64 (N,), of all images.
        train, test, validation: indices as the data set came divided; without `test` it is carved out of `train`.
        test_size, reserve_size, validation_size: images to carve out; by default a tenth of the training
            images, a fifth where there are fewer than 10,000.
        seed: draws the reserve and the thinning. The test images never depend on it.
        fraction: in (0, 1]; every class keeps at least one image of each use.

    Raises:
        DataError: a class has too few images to have one for each use, or `fraction` is out of range.
    """
    if not 0 < fraction <= 1:
        raise DataError(f"data set {name!r}: fraction is in (0, 1], not {fraction}")
    needed = 2 + (validation is None) + (test is None)  # training, reserve, and what else is carved out
    _check_classes(labels, classes, name, {"training": (train, needed)})
    given = {"validation": (validation, 1), "test": (test, 1)}
    _check_classes(labels, classes, name, {k: (v, n) for k, (v, n) in given.items() if v is not None})
    total = len(train)
    if test is None:
        size = _carve(total, len(classes)) if test_size is None else test_size
        test = draw_stratified(labels, train, size, seed=derive_seed("test"), keep=needed - 1)
        train = _without(train, test)
    size = _carve(len(train), len(classes)) if reserve_size is None else reserve_size
    keep = 1 + (validation is None)
    reserve = draw_stratified(labels, train, size, seed=derive_seed(seed, "reserve"), keep=keep)
    pool = _without(train, reserve)
    if validation is not None:
        pool, size = torch.cat([pool, validation]).sort().values, len(validation)
    else:
        # as many as the reserve: a tenth of all training images, so 5,000 of CIFAR's 50,000
        size = len(reserve) if validation_size is None else validation_size
    parts = Parts(pool.sort().values, reserve, test.sort().values, size, validation)
    return parts if fraction == 1 else _thin(labels, parts, fraction, seed, len(classes))


def draw_stratified(
    labels: torch.Tensor, indices: torch.Tensor, size: int, *, seed: int, keep: int = 0
) -> torch.Tensor:
    """`size` of `indices`, ascending, each class in proportion, at least one of each.

    Every class leaves `keep` images behind; only this and the "at least one" can change the size of the draw.
    """
    shuffled = indices[torch.randperm(len(indices), generator=generator(seed))]
    shuffled = shuffled[labels[shuffled].argsort(stable=True)]
    own = labels[shuffled]
    counts = torch.bincount(own)
    counts = counts[counts > 0]
    quota = _apportion(counts, size, keep)
    starts = counts.cumsum(0) - counts
    rank = torch.arange(len(own)) - starts.repeat_interleave(counts)
    return shuffled[rank < quota.repeat_interleave(counts)].sort().values


def _apportion(counts: torch.Tensor, size: int, keep: int) -> torch.Tensor:
    """How many of each class: largest remainders, between 1 and count − keep."""
    exact = counts.double() * size / counts.sum()
    most = (counts - keep).clamp(min=0)
    quota = torch.minimum(exact.floor().long().clamp(min=1), most)
    never = torch.tensor(-torch.inf, dtype=torch.float64)
    while int(quota.sum()) < size and bool((quota < most).any()):
        quota[torch.where(quota < most, exact - quota, never).argmax()] += 1
    # the "at least one" of small classes is paid for by those that have most beyond their share
    while int(quota.sum()) > size and bool((quota > 1).any()):
        quota[torch.where(quota > 1, quota - exact, never).argmax()] -= 1
    return quota


def _carve(total: int, classes: int) -> int:
    return max(classes, round(total * (0.1 if total >= LARGE else 0.2)))


def _without(indices: torch.Tensor, taken: torch.Tensor) -> torch.Tensor:
    return indices[~torch.isin(indices, taken)]


def _thin(labels: torch.Tensor, parts: Parts, fraction: float, seed: int, classes: int) -> Parts:
    def thin(indices: torch.Tensor, word: str, least: int = 1) -> torch.Tensor:
        size = min(len(indices), max(least * classes, round(len(indices) * fraction)))
        drawn = draw_stratified(labels, indices, size, seed=derive_seed(seed, "fraction", word))
        if least == 1:
            return drawn
        rest = _without(indices, drawn)  # a second image of those classes that got only one
        counts = torch.bincount(labels[drawn], minlength=classes)
        lone = rest[(counts < least)[labels[rest]]]
        extra = [
            lone[labels[lone] == c][: least - int(counts[c])] for c in sorted(set(labels[lone].tolist()))
        ]
        return torch.cat([drawn, *extra]).sort().values

    reserve, test = thin(parts.reserve, "reserve"), thin(parts.test, "test")
    if parts.validation is not None:
        validation = thin(parts.validation, "validation")
        pool = torch.cat([thin(_without(parts.pool, parts.validation), "pool"), validation]).sort().values
        return Parts(pool, reserve, test, len(validation), validation)
    pool = thin(parts.pool, "pool", least=2)
    size = min(max(classes, round(parts.validation_size * fraction)), len(pool) - classes)
    return replace(parts, pool=pool, reserve=reserve, test=test, validation_size=size)


def _check_classes(
    labels: torch.Tensor,
    classes: Sequence[str],
    name: str,
    parts: dict[str, tuple[torch.Tensor, int]],
) -> None:
    if len(classes) < 2:
        raise DataError(f"data set {name!r}: a classifier needs at least two classes, found {list(classes)}")
    for part, (indices, least) in parts.items():
        counts = torch.bincount(labels[indices], minlength=len(classes)).tolist()
        absent = [f"{classes[c]!r}" for c, n in enumerate(counts) if n == 0]
        if absent:
            raise DataError(
                f"data set {name!r}: the {part} part has no image of class {', '.join(absent)}; "
                "every part needs every class"
            )
        few = [f"{classes[c]!r} has {n}" for c, n in enumerate(counts) if n < least]
        if few:
            raise DataError(
                f"data set {name!r}: the {part} part needs at least {least} images of each class, one for each use "
                f"that is carved out of it, but {', '.join(few)}; add images or leave the class out"
            )
