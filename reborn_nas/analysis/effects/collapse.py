"""Trainings that came to nothing: one rule for which they are, which sites cause them, what a model makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from reborn_nas.analysis.effects.budget import FAILURES, RESCUES

__all__ = ["FENCE", "Failures", "collapsed", "converged", "failures_by_site", "pull_in"]

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]

LOST_SHARE = 1 / 3
"""Of the way from chance to an ordinary training: a training that lost more has collapsed."""
APART, FAR_APART = 4.0, 6.0
"""Robust standard deviations below the median. The first keeps large effects from counting as collapses."""
RARE = 0.05
"""Share of the runs that may count as collapsed for being far apart alone."""
AT_CHANCE = 0.9
"""Of the way from chance to the median of those that learned: a training that lost so much has learned nothing, however
many did."""
CLEAR = 8.0
"""By how many standard deviations of the trainings at chance the others must lie above it, or nothing has learned."""
LEAST_RUNS = 4
_UPPER_QUARTILE, _UPPER_DECILE = float(special.ndtri(0.75)), float(special.ndtri(0.9))
"""Of a normal variable, in standard deviations."""
_EDGE = 1e-4
"""What a share lacks at least."""


def collapsed(accuracy: Any, chance: float = 0.0, failed: Any = None, arms: Any = None) -> BoolArray:
    """Which trainings came to nothing: those that `failed` (a loss that was not finite), and those that fell far
    behind.

    A training fell far behind when it lost more than a third of the way from chance to the median of the better half,
    four robust standard deviations below the median at least; or when it lies more than six of them below it, with at
    most 5 % of the runs there; or when it lost nine tenths of that way, where chance is known. The spread is that of
    the better half, so that many collapses do not hide themselves, and of shares it is that of the logarithm of
    what they lack, so that large effects below the ceiling are none.

    Args:
        accuracy: (N,), larger is better; NaN for a missing run, which has not collapsed.
        chance: accuracy of a guess.
        failed: (N,) bool, runs that are known to have failed.
        arms: (N,), which of a few networks each run trained. Where half of an arm's runs or more came to nothing, that
            is what this network does, and the runs of all arms count as they are: left out of one arm alone, an
            accident that is as frequent in both would make them differ.
    """
    values = np.asarray(accuracy, dtype=np.float64)
    known = np.zeros(values.shape, dtype=np.bool_) if failed is None else np.asarray(failed, dtype=np.bool_)
    there = np.isfinite(values)
    judged = np.sort(values[there & ~known])
    fallen = known
    if len(judged) >= LEAST_RUNS:
        fallen = known | _behind(np.where(known, np.nan, values), judged, chance)
    for arm in () if arms is None else set(arms):
        mine = np.array([one == arm for one in arms], dtype=np.bool_) & there
        if 2 * (fallen & mine).sum() >= max(1, mine.sum()):
            return np.zeros(values.shape, dtype=np.bool_)
    return np.asarray(fallen)


def _behind(values: FloatArray, judged: FloatArray, chance: float) -> BoolArray:
    """(N,) bool, which of `values` fell far behind, by those that are `judged`, in order."""
    below = np.where(np.isfinite(values), values, np.inf)
    middle = _quantile(judged, 0.5)
    upper = _quantile(judged[judged >= middle], 0.5)
    shares = judged[0] >= 0 and judged[-1] <= 1
    depth = _depth(_stretched(below), _stretched(judged)) if shares else _depth(below, judged)
    fallen = (below < upper - LOST_SHARE * (upper - chance)) & (depth > APART)
    far = np.isfinite(depth) & (depth > FAR_APART)
    if far.sum() <= RARE * np.isfinite(values).sum():
        fallen |= far
    if chance != 0 and judged[-1] > chance:
        learned = judged[judged > (chance + judged[-1]) / 2]
        way = _quantile(learned, 0.5) - chance
        lost = below < chance + (1 - AT_CHANCE) * way
        if lost.any() and CLEAR * float(np.sqrt(((below[lost] - chance) ** 2).mean())) <= way:
            fallen |= lost
    return np.asarray(fallen)


def _depth(values: FloatArray, ordered: FloatArray) -> FloatArray:
    """By how many robust standard deviations each value lies below the median of the `ordered`; 0 without a spread.

    The spread is that of the better half: its median's distance from the median of all, and the upper decile's.
    """
    middle = _quantile(ordered, 0.5)
    by_median = (_quantile(ordered[ordered >= middle], 0.5) - middle) / _UPPER_QUARTILE
    by_decile = (_quantile(ordered, 0.9) - middle) / _UPPER_DECILE
    spread = max(by_median, by_decile)
    below = middle - values
    if spread > 0:
        return np.asarray(below / spread)
    return np.where(below > 0, np.inf, 0.0)


def _stretched(values: FloatArray) -> FloatArray:
    """Shares by the logarithm of what they lack; the infinity of a missing run lacks least."""
    return np.asarray(-np.log(np.maximum(1 - values, _EDGE)))


def converged(accuracy: Any, chance: float = 0.0, failed: Any = None, arms: Any = None) -> FloatArray:
    """`accuracy` with NaN for the trainings that came to nothing."""
    values = np.asarray(accuracy, dtype=np.float64)
    return np.where(collapsed(values, chance, failed, arms), np.nan, values)


def _quantile(ordered: FloatArray, share: float) -> float:
    """`np.quantile` of sorted values; a study asks for many of a few."""
    place = share * (len(ordered) - 1)
    below = int(place)
    first, second = float(ordered[below]), float(ordered[min(below + 1, len(ordered) - 1)])
    return first + (place - below) * (second - first)


@dataclass(frozen=True)
class Failures:
    """Failed runs by site.

    Args:
        with_level, without_level: (n,) failed runs in which the site is at level 1, at level 0.
        p_value: (n,) Fisher's exact test, one-sided: more failures at level 1.
        named: (n,) bool, p ≤ level / sites: level 1 makes trainings fail.
        rescued: (n,) bool, the same of level 0, at `RESCUES`: level 1 keeps them from it.
        size: how often any site is named where so many runs fail whatever their sites, at most; 0 where no arrangement
            of so few could name one.
    """

    with_level: npt.NDArray[np.int64]
    without_level: npt.NDArray[np.int64]
    p_value: FloatArray
    named: BoolArray
    rescued: BoolArray
    size: float

    @property
    def found(self) -> bool:
        """Whether a site is named, for either."""
        return bool(self.named.any() or self.rescued.any())


def failures_by_site(design: BoolArray, failed: BoolArray, *, level: float = FAILURES) -> Failures:
    """Does level 1 of a site make trainings fail, or level 0? Fisher's one-sided tests, Bonferroni over the sites.

    Args:
        design: (N, n) bool, the runs that ended, collapsed or not.
        failed: (N,) bool.
    """
    n_runs, n_sites = design.shape
    on = design.sum(axis=0)
    count = int(failed.sum())
    having = design[failed].sum(axis=0)
    p_value, other = np.ones(n_sites), np.ones(n_sites)
    if count:
        p_value = stats.hypergeom.sf(having - 1, n_runs, count, on)
        other = stats.hypergeom.sf(count - having - 1, n_runs, count, n_runs - on)
    threshold, rescue = level / n_sites, RESCUES / n_sites
    return Failures(
        with_level=having.astype(np.int64),
        without_level=(count - having).astype(np.int64),
        p_value=np.minimum(np.asarray(p_value, dtype=np.float64), 1.0),
        named=np.asarray(p_value <= threshold),
        rescued=np.asarray(other <= rescue),
        size=sum(
            _size(n_runs, count, int(one), threshold) + _size(n_runs, count, n_runs - int(one), rescue)
            for one in on
        ),
    )


@lru_cache(maxsize=1024)
def _size(n_runs: int, count: int, on: int, threshold: float) -> float:
    """How often a site at level 1 in `on` of the runs has p ≤ `threshold` by chance, with `count` failures."""
    p_value = stats.hypergeom.sf(np.arange(min(count, on) + 1) - 1, n_runs, count, on)
    within = p_value[p_value <= threshold]
    return float(within[0]) if len(within) and count else 0.0


FENCE = 1.5
"""Interquartile ranges below the lower quartile (Tukey 1977, Exploratory Data Analysis, ch. 2)."""


def pull_in(values: FloatArray, fallen: npt.NDArray[np.bool_] | None = None) -> FloatArray:
    """`values` (N,), larger is better, with those that came to nothing moved to Tukey's lower fence; others as they
    are.

    A training that collapses has the accuracy of chance, tens of standard deviations below the rest. Squared, a few
    of them are all that a linear model explains, and what its noise is estimated by. At the fence they are still the
    worst of all, and the others can be told apart. There is no upper fence: where most trainings collapse, it is
    the good ones that stand out.

    Non-finite values stay what they are; with no spread between the quartiles nothing is moved.

    Args:
        fallen: (N,) bool, which came to nothing, as from `collapse.collapsed`; the fence is then that of the others.
            Without, for values that have no level of chance, all that lie below the fence.
    """
    finite = values[np.isfinite(values)] if fallen is None else values[np.isfinite(values) & ~fallen]
    if len(finite) == 0:
        return values
    low, high = np.quantile(finite, [0.25, 0.75])
    if high <= low:
        return values
    fence = low - FENCE * (high - low)
    if fallen is None:
        return np.maximum(values, fence)  # NaN stays NaN
    return np.where(fallen & np.isfinite(values), fence, values)
