"""Shrinkage whose scale comes from the estimates themselves, with the noise shared by all sites and integrated out.

Each site's effect is drawn from N(0, τ²), or is exactly 0 with a probability π₀ where there are sites enough to tell.
τ is uniform, π₀ one of three values, the noise of one run has the posterior that its degrees of freedom leave, and an
allowance for the luck of few splits is needed or not; all are integrated over on a grid, by how well they explain the
estimates. Stephens (2017, Biostatistics 18(2)) takes the same likelihood with a maximum in place of the integral, which
is too sure of itself with few sites. Draws from it tell how sure the order of the sites is: P(top-5), rank intervals.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.special import logsumexp, ndtr, ndtri

FloatArray = npt.NDArray[np.float64]

FEW_SITES = 10
"""Up to here every site is taken to have an effect of some size: too few estimates to tell a share without one."""
NULL_SHARES = {0.0: 0.97, 0.5: 0.015, 0.9: 0.015}
"""Values of π₀ and their prior: mostly without a point at 0, or small effects all but vanish and so do their intervals.
With .1 for each, intervals of 33 effects a little smaller than their standard error cover 89 %, so 92 %; where five
sites of 33 have an effect that costs 2 % of the error."""
_NOISES, _SCALES = 7, 48
_REACH = 3.0
"""The grid of τ ends at so many times the largest estimate (or its standard error, where that is larger)."""
_NEGLIGIBLE = 2e-4
_STEPS, _TOLERANCE = 60, 1e-10


@dataclass(frozen=True)
class Shrunk:
    """Posterior of each effect: a mixture over K grid points of a point at 0 and a normal.

    Args:
        mean: (n,) posterior mean, in the estimates' unit.
        share: (K,) weight of each grid point.
        at_zero: (K, n) probability that the effect is exactly 0.
        centre, spread: (K, n) mean and standard deviation of the effect where it is not.
        prior_sd: standard deviation of the effects, root of its posterior mean square.
    """

    mean: FloatArray
    share: FloatArray
    at_zero: FloatArray
    centre: FloatArray
    spread: FloatArray
    prior_sd: float

    @functools.cached_property
    def low(self) -> FloatArray:
        """(n,) lower end of the 95 % credible interval."""
        return self._quantile(0.025)

    @functools.cached_property
    def high(self) -> FloatArray:
        """(n,) upper end of the 95 % credible interval."""
        return self._quantile(0.975)

    def _quantile(self, level: float) -> FloatArray:
        """The `level` quantile of each site's mixture; exactly 0 where the point at 0 holds it.

        Newton's steps on the normal scale, where the distribution is nearly a line, so that what is left after a step
        is its square; halving where a step leaves what is known to hold the quantile.
        """
        smooth = self.spread[:, 0] > 0  # without a scale of the effects every site is at 0
        centre, spread = self.centre[smooth], self.spread[smooth]
        weight = self.share[smooth, None] * (1 - self.at_zero[smooth])
        point = 1 - weight.sum(axis=0)
        before = (weight * ndtr(-centre / spread)).sum(axis=0)
        zero = (before < level) & (level <= before + point)
        wanted = np.where(zero, before, np.where(before < level, level - point, level))
        aim = ndtri(np.clip(wanted, 1e-300, None))
        reach = np.abs(centre).max(axis=0, initial=0.0) + 9 * spread.max(axis=0, initial=0.0)
        low, high = np.where(before < level, 0.0, -reach), np.where(before < level, reach, 0.0)
        square = (weight * (centre**2 + spread**2)).sum(axis=0)
        likely = self.mean + ndtri(level) * np.sqrt(np.maximum(square - self.mean**2, 0.0))
        begun = np.where((likely > low) & (likely < high), likely, 0.5 * (low + high))
        found = np.where(zero, 0.0, begun)
        active = np.flatnonzero(~zero)
        for _ in range(_STEPS):
            if not len(active):
                break
            x = found[active]
            z = (x - centre[:, active]) / spread[:, active]
            own = weight[:, active]
            cdf = (own * ndtr(z)).sum(axis=0)
            density = (own * np.exp(-0.5 * z**2) / spread[:, active]).sum(axis=0) / np.sqrt(2 * np.pi)
            below = cdf < wanted[active]
            low[active] = np.where(below, x, low[active])
            high[active] = np.where(below, high[active], x)
            there = ndtri(np.clip(cdf, 1e-300, 1 - 1e-16))
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                step = (aim[active] - there) * np.exp(-0.5 * there**2) / np.sqrt(2 * np.pi) / density
            moved = x + step
            near = np.abs(step) <= _TOLERANCE * reach[active]  # of a bound, too, and on either side of it
            inside = near | ((moved > low[active]) & (moved < high[active]))
            found[active] = np.where(inside, moved, 0.5 * (low[active] + high[active]))
            active = active[~near]
        return found

    def total(self, sites: npt.NDArray[np.bool_]) -> tuple[float, float]:
        """Mean and standard deviation of the sum over `sites` (n,), which are independent at each grid point."""
        there = 1 - self.at_zero[:, sites]
        centre, spread = self.centre[:, sites], np.broadcast_to(self.spread, self.centre.shape)[:, sites]
        mean = (there * centre).sum(axis=1)
        own = (there * (spread**2 + (1 - there) * centre**2)).sum(axis=1)
        expected = float(self.share @ mean)
        return expected, float(np.sqrt(self.share @ (own + (mean - expected) ** 2)))

    def draw(self, rng: np.random.Generator, draws: int) -> FloatArray:
        """(draws, n) joint draws of the effects: the sites of one draw share their grid point."""
        point = rng.choice(len(self.share), size=draws, p=self.share)
        drawn = self.centre[point] + self.spread[point] * rng.standard_normal((draws, len(self.mean)))
        return np.asarray(np.where(rng.random(drawn.shape) < self.at_zero[point], 0.0, drawn))


def shrink(
    effect: FloatArray, se: FloatArray, df: float = np.inf, widening: FloatArray | None = None
) -> Shrunk:
    """Shrink estimates towards 0.

    Args:
        effect: (n,).
        se: (n,) their standard errors, which rest on one noise.
        df: degrees of freedom of that noise.
        widening: (n,) what `se` holds as an allowance for few splits (`linear.Fit.widening`). Where it is not needed it
            would make the effects look smaller than they are; the estimates show as much of it as they can.
    """
    estimate = np.asarray(effect, dtype=np.float64)
    error = np.maximum(np.asarray(se, dtype=np.float64), 1e-12)
    allowed = np.ones_like(error) if widening is None else np.asarray(widening, dtype=np.float64)
    return _shrunk(estimate.tobytes(), error.tobytes(), allowed.tobytes(), float(df))


@functools.lru_cache(maxsize=16)
def _shrunk(*given: Any) -> Shrunk:
    """`shrink` of (effect, se, widening, df) as bytes; a report asks for one screen's several times."""
    estimate, error, allowed = (np.frombuffer(one, dtype=np.float64) for one in given[:3])
    noise = _noise_factors(given[3])[:, None] * error  # (noises, n)
    if (allowed > 1).any():
        noise = np.concatenate([noise, noise / allowed])
    largest = float(max(np.abs(estimate).max(), error.max()))
    scales = np.concatenate([[0.0], _REACH * largest * (np.arange(1, _SCALES) / (_SCALES - 1)) ** 2])
    shares = np.array(list(NULL_SHARES) if len(estimate) > FEW_SITES else [0.0])
    spike, both = _likelihoods(estimate, noise, scales, shares)
    # uniform in τ: each point stands for the stretch between its neighbours
    prior = np.log(np.gradient(scales))[:, None] + np.log([NULL_SHARES[share] for share in shares.tolist()])
    logs = (both.sum(axis=3) + prior).ravel()
    weight = np.exp(logs - logsumexp(logs))
    kept = weight > _NEGLIGIBLE
    weight = weight[kept] / weight[kept].sum()
    f, t, p = (index[kept] for index in _grid_indices(len(noise), len(scales), len(shares)))
    at_zero = np.exp(spike[f, p] - both[f, t, p])
    squared, own = scales[t, None] ** 2, noise[f] ** 2
    factor = squared / (own + squared)
    centre = factor * estimate
    return Shrunk(
        mean=weight @ ((1 - at_zero) * centre),
        share=weight,
        at_zero=at_zero,
        centre=centre,
        spread=np.sqrt(factor * own),
        prior_sd=float(np.sqrt(weight @ ((1 - shares[p]) * squared[:, 0]))),
    )


def _likelihoods(
    estimate: FloatArray, noise: FloatArray, scales: FloatArray, shares: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Log likelihoods of the estimates (n,), without a constant.

    Returns:
        That of an effect of exactly 0, times its share: (noises, shares, n); and that of any effect: (noises, scales,
        shares, n).
    """
    variance = noise**2
    total = variance[:, None] + (scales**2)[:, None]
    slab = -0.5 * (np.log(total) + estimate**2 / total)
    point = -0.5 * (np.log(variance) + estimate**2 / variance)
    spike = np.full((len(noise), len(shares), len(estimate)), -np.inf)
    both = np.empty((len(noise), len(scales), len(shares), len(estimate)))
    for k, share in enumerate(shares.tolist()):
        if share == 0:
            both[:, :, k] = slab
        else:
            spike[:, k] = point + np.log(share)
            both[:, :, k] = np.logaddexp(spike[:, None, k], slab + np.log1p(-share))
    return spike, both


@functools.lru_cache(maxsize=64)
def _grid_indices(*sizes: int) -> tuple[npt.NDArray[np.intp], ...]:
    """The index along each axis of every point of a grid, the last axis the fastest."""
    return tuple(grid.ravel() for grid in np.indices(sizes))


@functools.lru_cache(maxsize=256)
def _noise_factors(df: float) -> FloatArray:
    """Equally likely values of σ/s given s: quantiles of √(df/χ²_df)."""
    if not np.isfinite(df):
        return np.ones(1)
    levels = (np.arange(_NOISES) + 0.5) / _NOISES
    return np.asarray(np.sqrt(df / stats.chi2.ppf(levels, df)))


DRAWS = 2000
LEAST_SITES = 12
"""With fewer, five of them are most of them, and their scale is too little known for a probability."""
TOP = 5


@dataclass(frozen=True)
class Ranks:
    """Rank 1 is the largest effect. NaN where the numbers would not be calibrated, see `ranks`.

    Args:
        p_top: (n,) probability of being among the five largest.
        low, high: (n,) 90 % interval of the rank.
    """

    p_top: FloatArray
    low: FloatArray
    high: FloatArray


def ranks(posterior: Shrunk, se: FloatArray, *, seed: int = 0, draws: int = DRAWS) -> Ranks:
    """Ranks over joint draws of the shrunk effects.

    Simulated, a probability of .9 or more is true as often as it says where effects differ by their standard error at
    least, and too high below that; so there are no ranks where the estimated prior deviation is below it.
    """
    n = len(posterior.mean)
    if n < LEAST_SITES or posterior.prior_sd < float(np.median(se)):
        return Ranks(*(np.full(n, np.nan) for _ in range(3)))
    rng = np.random.default_rng(np.random.SeedSequence([abs(seed), int(seed < 0), 5]))
    drawn = posterior.draw(rng, draws)
    drawn += 1e-9 * float(np.median(se)) * rng.standard_normal(drawn.shape)  # points at 0 are in no order
    order = np.argsort(-drawn, axis=1)
    cells = np.bincount((order + n * np.arange(n)).ravel(), minlength=n * n)
    within = cells.reshape(n, n).cumsum(axis=0)  # [k, i]: draws in which site i is among the first k + 1
    low, high = (1.0 + (within < share * draws).sum(axis=0) for share in (0.05, 0.95))
    return Ranks(within[TOP - 1] / draws, low, high)
