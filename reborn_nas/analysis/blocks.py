"""How many train/validation splits a screen needs, and which run goes to which.

What a split adds to one site's effect enters that effect in full and the residuals only in so far as splits differ.
With few splits the standard error then misses it: with as much of it as there is noise of training, 95 % intervals of a
full factorial of five sites cover 77 % with two splits, 92 % with four and 94 % with eight.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from reborn_nas.analysis.student import t_quantile

Signs = npt.NDArray[np.int8]
IntArray = npt.NDArray[np.int64]

HONEST = 0.85
"""Expected variance estimate over the true variance, split and training noise alike, that gives intervals of .93."""
DEAREST = 1.1
"""What one more halving of the splits may widen the intervals by, for the degrees of freedom that it costs."""
CANDIDATES, RESTARTS = 24, 6


def split_blocks(sites: Signs, spare: Signs, halves: IntArray | None, rng: np.random.Generator) -> IntArray:
    """The split of each run of one whole design.

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
    signs = sites.astype(np.float64)
    blocks = np.eye(int(block.max()) + 1)[block]
    matrix = np.hstack([signs / 2, blocks])
    inverse = np.linalg.inv(matrix.T @ matrix)
    noise = np.eye(len(signs)) + (split**2 / 4) * (signs @ signs.T) * (blocks @ blocks.T)
    weights = inverse @ matrix.T
    free = len(signs) - matrix.shape[1]
    left = np.eye(len(signs)) - matrix @ weights
    expected = float((left * noise).sum()) / free
    true = np.einsum("ij,jk,ik->i", weights[: signs.shape[1]], noise, weights[: signs.shape[1]])
    return float((expected * np.diag(inverse)[: signs.shape[1]] / true).min())


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
