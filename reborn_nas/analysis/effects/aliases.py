"""What else a site's effect could be: joint effects of other sites that the design cannot tell from it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from reborn_nas.analysis.effects.linear import as_design

__all__ = ["Aliases", "find_aliases"]

MOST_TRIPLES = 60_000
"""Triples of sites looked at: all of them up to 71 sites."""


@dataclass(frozen=True)
class Aliases:
    """The largest share of a joint effect that enters a single site's effect.

    Args:
        two: of a joint effect of two other sites.
        three: of a joint effect of three other sites.
        site: where that happens, as an index; −1 where `three` is 0.
        others: the three sites, as indices.
        complete: whether all triples were looked at.
    """

    two: float
    three: float
    site: int = -1
    others: tuple[int, ...] = ()
    complete: bool = True

    def sentence(self, names: Sequence[Any]) -> str:
        """What a reader must know of it."""
        if self.two > 1e-9:
            return (
                f"A joint effect of two sites can look like one site's effect: up to {100 * self.two:.0f} % of it "
                "enters. Only a whole design keeps them apart."
            )
        if self.three <= 1e-9:
            return "No joint effect of two or three sites can look like the effect of one."
        joint = ", ".join(str(names[k]) for k in self.others[:-1]) + f" and {names[self.others[-1]]}"
        least = "up to" if self.complete else "at least"
        return (
            "No joint effect of two sites can look like the effect of one, but a joint effect of three can: "
            f"{least} {100 * self.three:.0f} % of it enters, such as that of {joint} at {names[self.site]}."
        )


def find_aliases(design: Any) -> Aliases:
    """The largest aliases of the sites in `design` (N, n), True where the site is reborn.

    The share is |Σ xᵢxⱼxₖxₗ|/N of the runs: 1 where site i changes exactly as the product of the three others does.
    """
    levels = as_design(design)
    return _aliases(levels.tobytes(), levels.shape)


@lru_cache(maxsize=64)
def _aliases(cells: bytes, shape: tuple[int, int]) -> Aliases:
    levels: npt.NDArray[np.bool_] = np.frombuffer(cells, dtype=np.bool_).reshape(shape)
    signs = np.where(levels, 1.0, -1.0).astype(np.float32)
    signs = signs - signs.mean(axis=0)  # of a screen cut short; a balanced column has a mean of 0
    n = shape[1]
    two = max((share for _, share, _ in _shares(signs, itertools.combinations(range(n), 2))), default=0.0)
    triples: Iterator[tuple[int, ...]] = itertools.combinations(range(n), 3)
    complete = n * (n - 1) * (n - 2) // 6 <= MOST_TRIPLES
    if not complete:
        rng = np.random.default_rng(0)
        triples = iter([tuple(rng.choice(n, 3, replace=False)) for _ in range(MOST_TRIPLES // 4)])
    others, three, site = max(_shares(signs, triples), key=lambda one: one[1], default=((), 0.0, -1))
    if three <= 1e-6:
        return Aliases(two, 0.0, complete=complete)
    return Aliases(two, three, site, tuple(int(k) for k in others), complete)


def _shares(
    signs: npt.NDArray[np.float32], sets: Iterable[tuple[int, ...]]
) -> Iterator[tuple[tuple[int, ...], float, int]]:
    """(sites, largest share, at which site) of sets of sites, the largest of each few thousand."""
    n_runs = len(signs)
    remaining = iter(sets)
    while chunk := list(itertools.islice(remaining, 4096)):
        index = np.array(chunk)
        product = signs[:, index].prod(axis=2)  # (N, sets)
        share = np.abs(signs.T @ product) / n_runs  # (n, sets)
        share[index.T, np.arange(len(index))] = 0.0
        site, at = np.unravel_index(int(share.argmax()), share.shape)
        yield tuple(chunk[at]), float(share[site, at]), int(site)
