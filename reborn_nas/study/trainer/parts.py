"""Rows of the user's data, divided into what trains and what judges: by row, by stratum, or by whole groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from reborn_nas.errors import ConfigError
from reborn_nas.seeds import derive_seed

__all__ = ["Parts", "divide"]

IntArray = npt.NDArray[np.int64]

LARGE = 10_000
"""From this many rows on, a part is a tenth of them; below, a fifth."""

FEWEST = 8
"""Rows, or groups, that can be divided into four parts."""

NAMES = ("train", "validation", "reserve", "test")


@dataclass(frozen=True, eq=False)
class Parts:
    """Disjoint rows, ascending. `parts["validation"]` is `parts.validation`.

    Args:
        train: what trains; with `validation` drawn anew for each split.
        validation: judges baseline, screen and exploration.
        reserve: judges the retest, the control and the checks; used by nothing else.
        test: judges the candidate and its parent, once; the same rows whatever the study's seed.
    """

    train: IntArray
    validation: IntArray
    reserve: IntArray
    test: IntArray

    def __getitem__(self, part: str) -> IntArray:
        if part not in NAMES:
            raise ConfigError(f"a part is one of {', '.join(NAMES)}, not {part!r}")
        found: IntArray = getattr(self, part)
        return found


def divide(n: int, *, seed: int, split: int, strata: Any = None, groups: Any = None) -> Parts:
    """The parts of `n` rows in one split.

    Args:
        seed: of the study; draws all but the test part.
        split: number of the split.
        strata: (n,) such as classes: each part has them in proportion.
        groups: (n,) such as patients or videos: all rows of one stand in one part.

    Raises:
        ConfigError: too few rows or groups, or arrays of another length.
    """
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise ConfigError(f"indices: the number of rows is a whole number above 0, not {n!r}")
    group = np.arange(n) if groups is None else _codes(groups, int(n), "groups")
    count = int(group.max()) + 1
    if count < FEWEST:
        what = "rows" if groups is None else "groups"
        raise ConfigError(
            f"indices: {count} {what} cannot be divided into {', '.join(NAMES)}; {FEWEST} at least"
        )
    size = np.bincount(group, minlength=count)
    stratum = np.zeros(count, dtype=np.int64)
    if strata is not None:  # of a group, that of its last row
        stratum[group] = _codes(strata, int(n), "strata")
    share = 0.1 if n >= LARGE else 0.2
    left = np.arange(count)
    drawn: dict[str, IntArray] = {}
    for name, words in (
        ("test", ("own", "test")),
        ("reserve", ("own", seed, "reserve")),
        ("validation", ("own", seed, "split", split)),
    ):
        taken = _draw(left, size, stratum, share * n, np.random.default_rng(derive_seed(*words)))
        drawn[name] = taken
        left = left[~np.isin(left, taken)]
    rows = {name: np.flatnonzero(np.isin(group, units)) for name, units in {**drawn, "train": left}.items()}
    if empty := [name for name, found in rows.items() if not len(found)]:
        raise ConfigError(
            f"indices: no row is left for {' and '.join(empty)}; the groups are too large for {n} rows"
        )
    return Parts(rows["train"], rows["validation"], rows["reserve"], rows["test"])


def _draw(
    left: IntArray, size: IntArray, stratum: IntArray, wanted: float, rng: np.random.Generator
) -> IntArray:
    """Some of the units `left` that have `wanted` rows together, each stratum in proportion, at least one unit."""
    order = rng.permutation(left)
    fits = size[order] <= 1.5 * wanted  # a group larger than that stays for training
    order = np.concatenate([order[fits], order[~fits]])
    place = np.empty(len(order))
    for one in np.unique(stratum[order]):
        mine = np.flatnonzero(stratum[order] == one)
        place[mine] = (np.arange(len(mine)) + rng.random()) / len(mine)
    order = order[np.argsort(place, kind="stable")]
    before = np.cumsum(size[order]) - size[order] / 2  # a group counts where its middle is within the share
    count = int(np.clip((before <= wanted).sum(), min(1, fits.sum()), len(order) - 1))
    return np.sort(order[:count])


def _codes(values: Any, n: int, name: str) -> IntArray:
    array = np.asarray(values.cpu() if hasattr(values, "cpu") else values)
    if array.shape != (n,):
        raise ConfigError(f"indices: {name} has one entry for each of the {n} rows, not shape {array.shape}")
    try:
        return np.unique(array, return_inverse=True)[1].astype(np.int64)
    except TypeError as error:
        raise ConfigError(
            f"indices: {name} has entries that cannot be compared with each other: {error}"
        ) from None
