"""What else a site's effect could be: joint effects of other sites that the design cannot tell from it.

And the fit of a screen whose standard errors allow for them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from reborn_nas.analysis.effects.linear import (
    Fit,
    allow_for_splits,
    as_design,
    block_codes,
    block_columns,
    fit,
    inverse_of,
)

__all__ = ["JOINT_LEVEL", "Aliases", "allow_for_joint_effects", "find_aliases", "fit_screen"]

NEGLIGIBLE = 1e-5
"""A share of no more is rounding."""
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
        if self.two > 0:
            return (
                f"A joint effect of two sites can look like one site's effect: up to {100 * self.two:.0f} % of it "
                "enters. Only a whole design keeps them apart."
            )
        if self.three <= 0:
            return "No joint effect of two or three sites can look like the effect of one."
        joint = ", ".join(str(names[k]) for k in self.others[:-1]) + f" and {names[self.others[-1]]}"
        least = "up to" if self.complete else "at least"
        return (
            "No joint effect of two sites can look like the effect of one, but a joint effect of three can: "
            f"{least} {100 * self.three:.0f} % of it enters, such as that of {joint} at {names[self.site]}."
        )


def find_aliases(design: Any, block: Any = None) -> Aliases:
    """The largest aliases of the sites in `design` (N, n), True where the site is reborn.

    In a balanced design the share is |Σ xᵢxⱼxₖxₗ|/N of the runs: 1 where site i changes exactly as the product of the
    three others does. In another one it is what least squares with the splits as blocks makes of that product.

    Args:
        block: (N,) the split of each run; None for one split.
    """
    levels = as_design(design)
    codes = np.zeros(len(levels), dtype=np.int64) if block is None else block_codes(block)
    return _aliases(levels.tobytes(), levels.shape, codes.tobytes())


@lru_cache(maxsize=64)
def _aliases(cells: bytes, shape: tuple[int, int], codes: bytes) -> Aliases:
    levels: npt.NDArray[np.bool_] = np.frombuffer(cells, dtype=np.bool_).reshape(shape)
    signs = np.where(levels, 1.0, -1.0)
    weights = _weights(signs, np.frombuffer(codes, dtype=np.int64)).astype(np.float32)
    signs = signs.astype(np.float32)
    n = shape[1]
    pairs = itertools.combinations(range(n), 2)
    two = max((share for _, share, _ in _shares(signs, weights, pairs)), default=0.0)
    two = two if two > NEGLIGIBLE else 0.0
    triples: Iterator[tuple[int, ...]] = itertools.combinations(range(n), 3)
    complete = n * (n - 1) * (n - 2) // 6 <= MOST_TRIPLES
    if not complete:
        rng = np.random.default_rng(0)
        triples = iter([tuple(rng.choice(n, 3, replace=False)) for _ in range(MOST_TRIPLES // 4)])
    others, three, site = max(_shares(signs, weights, triples), key=lambda one: one[1], default=((), 0.0, -1))
    if three <= NEGLIGIBLE:
        return Aliases(two, 0.0, complete=complete)
    return Aliases(two, three, site, tuple(int(k) for k in others), complete)


def _weights(signs: npt.NDArray[np.float64], codes: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """(n, N) the weights of the runs in each site's effect, of signs ±1 in place of ±½; where the runs cannot tell the
    sites apart, those of each site by itself."""
    matrix = np.column_stack([signs, block_columns(codes, len(signs))])
    inverse = inverse_of(matrix) if len(matrix) > matrix.shape[1] else None
    if inverse is None:
        return np.asarray((signs - signs.mean(axis=0)).T / len(signs))
    return np.asarray((inverse @ matrix.T)[: signs.shape[1]])


def _shares(
    signs: npt.NDArray[np.float32], weights: npt.NDArray[np.float32], sets: Iterable[tuple[int, ...]]
) -> Iterator[tuple[tuple[int, ...], float, int]]:
    """(sites, largest share, at which site) of sets of sites, the largest of each few thousand."""
    remaining = iter(sets)
    while chunk := list(itertools.islice(remaining, 4096)):
        index = np.array(chunk)
        product = signs[:, index].prod(axis=2)  # (N, sets)
        share = np.abs(weights @ product)  # (n, sets)
        share[index.T, np.arange(len(index))] = 0.0
        site, at = np.unravel_index(int(share.argmax()), share.shape)
        yield tuple(chunk[at]), float(share[site, at]), int(site)


def fit_screen(
    design: Any,
    accuracy: Any,
    *,
    block: Any = None,
    covariates: Any = None,
    names: Sequence[Any] | None = None,
) -> Fit:
    """`linear.fit` with the standard errors that few splits and joint effects of three sites need."""
    levels = as_design(design)
    fitted = fit(levels, accuracy, block=block, covariates=covariates, names=names)
    there = np.isfinite(np.asarray(accuracy, dtype=np.float64))
    fitted = allow_for_splits(fitted, None if block is None else np.asarray(block)[there])
    return allow_for_joint_effects(fitted, levels[there]) if find_aliases(levels).three > 0 else fitted


JOINT_LEVEL = 0.02
"""Of the test for joint effects. At .01, intervals of 33 sites and 72 runs with eleven triples cover 84 %, at .05 89 %;
but there, where the odd residuals have two degrees of freedom, that many studies lose their power for nothing."""


def allow_for_joint_effects(fitted: Fit, design: npt.NDArray[np.bool_]) -> Fit:
    """The fit with the variance of its odd part, where joint effects of three sites show.

    What a run and its mirror image (every site the other way) have in common is even in the sites' signs: the mean and
    joint effects of two sites. Half their difference is odd: single sites and joint effects of three. A foldover keeps
    the two apart, and a joint effect of three sites enters single effects as it enters the odd residuals, but only half
    as much all residuals. So where the odd residuals are larger than the even ones (F test), the standard errors are
    taken from them, on their degrees of freedom.

    Args:
        fitted: of a design in which joint effects of three sites can look like one site's.
        design: (n_runs, n) the levels of the runs that the fit used.
    """
    first, second = _mirror_images(design)
    if not len(first):
        return fitted
    parts = []
    for sign in (-1.0, 1.0):
        row = (fitted.matrix[first] + sign * fitted.matrix[second]) / np.sqrt(2)
        residual = (fitted.residuals[first] + sign * fitted.residuals[second]) / np.sqrt(2)
        parts.append((float(residual @ residual), len(first) - float(((row @ fitted.inverse) * row).sum())))
    (odd, odd_df), (even, even_df) = parts
    if min(odd_df, even_df) < 1 or not even > 0:
        return fitted
    p_value = float(stats.f.sf((odd / odd_df) / (even / even_df), odd_df, even_df))
    if p_value > JOINT_LEVEL:
        return replace(fitted, joint_p=p_value)
    scale = odd / odd_df / fitted.sigma**2
    return replace(
        fitted, cov=scale * fitted.cov, extra_cov=scale * fitted.extra_cov, sigma=fitted.sigma * float(np.sqrt(scale)),
        df=int(odd_df + 1e-6), joint_p=p_value,
    )  # fmt: skip


def _mirror_images(design: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Indices of runs and of their mirror images, each run in one pair at most."""
    waiting: dict[bytes, list[int]] = {}
    pairs = []
    for index, row in enumerate(design):
        mirrored = waiting.get((~row).tobytes())
        if mirrored:
            pairs.append((mirrored.pop(), index))
        else:
            waiting.setdefault(row.tobytes(), []).append(index)
    found = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return found[:, 0], found[:, 1]
