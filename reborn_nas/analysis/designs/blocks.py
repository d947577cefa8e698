"""How many train/validation splits a screen needs, and which run goes to which.

What a split adds to one site's effect enters that effect in full and the residuals only in so far as splits differ.
With few splits the standard error then misses it: with as much of it as there is noise of training, 95 % intervals of a
full factorial of five sites cover 77 % with two splits, 92 % with four and 94 % with eight.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from reborn_nas.analysis.student import t_quantile

Signs = npt.NDArray[np.int8]
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

HONEST = 0.85
"""Expected variance estimate over the true variance, split and training noise alike, that gives intervals of .93."""
DEAREST = 1.1
"""What one more halving of the splits may widen the intervals by, for the degrees of freedom that it costs."""
ALLOWED = 0.955
"""The same ratio that the intervals are widened to where it is smaller. More than `HONEST`, because what is selected
lies in the tails. Simulated with five effects (5,000 studies, ± .002): the share of the intervals of selected sites
that miss with as much luck of a split as noise, and the power without such luck, at .85, .955 and .97: 60 sites in 144
runs .088, .060, .057 and .995, .994, .993; 33 in 96 .089, .056, .053 and .970, .959, .958; 5 in 32 .031, .025, .025 and
.827, .807, .804. At .97, intervals without such luck cover more than 97 % in the table of planted truths."""
WIDEST = 1.3
"""What intervals are widened by at most where the splits are too few; all designs of edition 2 need less."""
CANDIDATES, RESTARTS = 24, 6


def split_blocks(sites: Signs, spare: Signs, halves: IntArray | None, rng: np.random.Generator) -> IntArray:
    """The split of each run of one complete design.

    The blocks are halved along spare columns as long as intervals would be too narrow and it is not too dear. Every
    site stays balanced within every block.

    Args:
        sites: (N, n) ±1, the sites' levels.
        spare: (N, c) ±1, balanced columns that are no site's.
        halves: (N,) blocks to begin with; all runs are one without.
        rng: which spare columns are looked at, where there are many.
    """
    begun = np.zeros(len(sites), dtype=np.int64) if halves is None else _numbered(halves)
    best = begun
    for _ in range(
        RESTARTS
    ):  # halving greedily can end where no column is left that keeps the sites balanced
        found = _halved(sites, spare, begun, rng)
        if best is begun or honesty(sites, found) > honesty(sites, best):
            best = found
        if honesty(sites, best) >= HONEST:
            break
    return best


def _halved(sites: Signs, spare: Signs, codes: IntArray, rng: np.random.Generator) -> IntArray:
    while codes.max() == 0 or honesty(sites, codes) < HONEST:
        looked = rng.permutation(spare.shape[1])[:CANDIDATES]
        made = [_numbered(2 * codes + (spare[:, k] > 0)) for k in looked]
        halved = [one for one in made if one.max() == 2 * codes.max() + 1]
        fitting = [one for one in halved if _is_balanced(sites, one) and _is_affordable(sites, codes, one)]
        if not fitting:
            break
        codes = max(fitting, key=lambda one: honesty(sites, one))
    return codes


def _numbered(codes: IntArray) -> IntArray:
    """The same groups as 0, 1, 2 …"""
    return np.asarray(np.unique(codes, return_inverse=True)[1], dtype=np.int64)


def honesty(sites: Signs, block: IntArray, split: float = 1.0) -> float:
    """The smallest ratio, over sites, of an effect's expected estimated variance to its true one.

    Args:
        split: standard deviation of what a split adds to one site's effect, in that of one training's noise.
    """
    matrix = np.hstack([sites / 2, np.eye(int(block.max()) + 1)[block]])
    return float(variance_ratios(matrix, sites.shape[1], block, split).min())


def variance_ratios(matrix: FloatArray, n_sites: int, block: IntArray, split: float = 1.0) -> FloatArray:
    """(n,) an effect's expected estimated variance over its true one, where splits add to the sites' effects.

    Args:
        matrix: (N, p) the fit's columns; the first `n_sites` are the sites', ±½.
        block: (N,) the split of each run, 0 … B − 1.
        split: as in `honesty`.
    """
    n_runs, p = matrix.shape
    inverse = np.linalg.inv(matrix.T @ matrix)
    free = float(n_runs - p)
    expected, true = free, np.diag(inverse)[:n_sites].copy()
    for index in range(int(block.max()) + 1):
        rows = matrix[block == index]
        luck = split * rows[:, :n_sites]  # (runs of this split, n): what each site's luck adds to each run
        inner = rows.T @ luck
        expected += float((luck**2).sum() - (inner * (inverse @ inner)).sum())
        true += ((inverse[:n_sites] @ inner) ** 2).sum(axis=1)
    return np.asarray(expected / free * np.diag(inverse)[:n_sites] / true)


def split_allowance(matrix: FloatArray, n_sites: int, block: Any) -> FloatArray:
    """(n,) by what standard errors are to be multiplied where the splits are too few for honest intervals.

    1 where the ratio of variances is `ALLOWED` or more with as much luck of a split as noise of training, and where
    there is one split, whose luck nothing can show. At most `WIDEST`.
    """
    codes = np.zeros(1, dtype=np.int64) if block is None else _numbered(np.asarray(block))
    if codes.max() == 0 or len(matrix) <= matrix.shape[1]:
        return np.ones(n_sites)
    return _allowance(np.ascontiguousarray(matrix).tobytes(), matrix.shape, n_sites, codes.tobytes())


@lru_cache(maxsize=256)
def _allowance(cells: bytes, shape: tuple[int, int], n_sites: int, codes: bytes) -> FloatArray:
    """`split_allowance` of more than one split; one design is fitted several times for one report."""
    matrix = np.frombuffer(cells, dtype=np.float64).reshape(shape)
    ratio = variance_ratios(matrix, n_sites, np.frombuffer(codes, dtype=np.int64))
    factor = np.asarray(np.clip(np.sqrt(ALLOWED / ratio), 1.0, WIDEST))
    factor.flags.writeable = False
    return factor


def _is_balanced(sites: Signs, block: IntArray) -> bool:
    """Whether each site has both levels equally often in each block, and blocks are of one size."""
    sizes = np.bincount(block)
    if sizes.min() != sizes.max() or sizes.min() < 2:
        return False
    blocks = np.eye(int(block.max()) + 1)[block]
    return not (blocks.T @ sites).any()


def _is_affordable(sites: Signs, before: IntArray, after: IntArray) -> bool:
    """Whether enough degrees of freedom are left; the first halving always is, where any are."""
    n_runs, n_sites = sites.shape
    free = [n_runs - n_sites - int(block.max()) - 1 for block in (before, after)]
    if free[1] < 1:
        return False
    if before.max() == 0:
        return True
    widths = [t_quantile(0.025, one) for one in free]
    return bool(widths[1] <= DEAREST * widths[0])
