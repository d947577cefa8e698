"""Regular two-level designs in which nothing below four sites can be taken for the effect of one.

A full factorial, or a fraction of resolution V or more: main effects and joint effects of two sites are all estimable
apart, and a joint effect of three sites never looks like a single site's.
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

Signs = npt.NDArray[np.int8]

LEAST_FACTORS, MOST_FACTORS = 3, 8
"""Base factors of one whole design: 8 to 256 runs."""

_GENERATORS = {
    (8, 6): ("ABCD", "ABEF"),
    (9, 7): ("ACDFG", "BCEFG"),
    (10, 7): ("ABCG", "BCDE", "ACDF"),
    (11, 7): ("ABCG", "BCDE", "ACDF", "ABCDEFG"),
}
"""(sites, base factors) → the words of the sites beyond the base factors. Box, Hunter and Hunter (2005), table 6.22,
and Montgomery (2017), appendix VIII. One site beyond the base is the product of all of them."""


def factorial_size(n_sites: int, n_runs: int) -> int | None:
    """Runs of the largest regular design for `n_sites` of which `n_runs` is a multiple; None where there is none."""
    for factors in range(min(max(n_sites, LEAST_FACTORS), MOST_FACTORS), LEAST_FACTORS - 1, -1):
        if n_runs % 2**factors == 0 and _words(n_sites, factors) is not None:
            return int(2**factors)
    return None


def factorial(n_sites: int, size: int) -> tuple[Signs, Signs]:
    """A regular design of `size` runs: the sites' columns (size, n) and all other columns that are balanced."""
    factors = size.bit_length() - 1
    words = _words(n_sites, factors)
    if words is None or size != 2**factors:
        raise ValueError(f"no regular design of {n_sites} sites in {size} runs")
    base = np.array(list(itertools.product((-1, 1), repeat=factors)), dtype=np.int8)
    masks = [tuple(sorted(word)) for word in words]
    subsets = [
        subset
        for length in range(1, factors + 1)
        for subset in itertools.combinations(range(factors), length)
    ]
    columns = {subset: base[:, subset].prod(axis=1, dtype=np.int8) for subset in subsets}
    sites = np.column_stack([columns[mask] for mask in masks])
    spare = [column for subset, column in columns.items() if subset not in set(masks)]
    return sites, np.column_stack(spare) if spare else np.zeros((size, 0), dtype=np.int8)


def _words(n_sites: int, factors: int) -> list[tuple[int, ...]] | None:
    """The base factors whose product each site's column is; None without a design of resolution V."""
    base: list[tuple[int, ...]] = [(k,) for k in range(factors)]
    if n_sites <= factors:
        return base[:n_sites]
    if n_sites == factors + 1 and factors >= 4:
        return [*base, tuple(range(factors))]
    letters = _GENERATORS.get((n_sites, factors))
    return None if letters is None else base + [tuple("ABCDEFGH".index(c) for c in word) for word in letters]
