"""How far apart an additive model's weights may lie, and how noisy a trial is: estimated from the trials themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve, cholesky, solve_triangular

from reborn_nas.analysis.model.encoding import Space

__all__ = [
    "LEAST_TRIALS",
    "Scales",
    "estimate_scales",
    "gram_of",
    "scales_of",
    "solve_posterior",
    "starting_scales",
]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_LEAST_NOISE, _LEAST_SCALE = 1e-3, 1e-3
_PROBES = 48
_FACTORS = np.array([0.1, 0.3, 0.6, 1.0, 1.6, 2.5])
_FACTOR_PULL = np.array([0.0, 0.0, 1.0, 4.0, 1.0, 0.0]) + 0.05
"""A site's possible relevances, and the imaginary sites that speak for each."""
LEAST_TRIALS = 8
"""With fewer, scales and noise stay at their starting values."""
_MOST_STEPS = 15
_FEW_STEPS, _MANY_TRIALS = 3, 400
"""With many trials the starting scales matter less and a step costs more."""


@dataclass(frozen=True)
class Scales:
    """Prior standard deviations and noise, in units of the values' standard deviation.

    Args:
        tau: (5,) of each family of weights.
        relevance: (S,) factor on τ of each site's own weights, so that few sites may matter much.
        noise: variance of one trial.
    """

    tau: FloatArray
    relevance: FloatArray
    noise: float

    def prior(self, family: IntArray, site: IntArray) -> FloatArray:
        """(p,) prior variance of each weight."""
        return np.asarray(
            np.where(family == 3, self.tau[family] * self.relevance[site], self.tau[family]) ** 2
        )


def starting_scales(space: Space) -> Scales:
    """Before any trial: half of the variance is noise; the families share the rest, each spread over the sites."""
    sites = len(space.names)
    tau = np.array([3.0, 0.3, 0.3, 0.6, 0.2]) / np.array([1.0, *[np.sqrt(sites)] * 4])
    return Scales(tau, np.ones(sites), 0.5)


def estimate_scales(space: Space, x: FloatArray, y: FloatArray) -> Scales:
    """Scales of standardised values `y` (N,) with features `x` (N, p)."""
    return scales_of(x, y, space)


def gram_of(x: FloatArray) -> FloatArray:
    """(p, p) XᵀX of features (N, p)."""
    counts = x.astype(np.float32)  # small whole numbers: their products are exact
    return np.asarray((counts.T @ counts).astype(np.float64))


def scales_of(x: FloatArray, y: FloatArray, space: Space, gram: FloatArray | None = None) -> Scales:
    """Scales and noise, in units of the values' standard deviation; `gram` is XᵀX where it is at hand.

    MacKay's fixed point of the marginal likelihood: τ² = Σ m²/γ and σ² = RSS/(N − Σγ), where γ counts the
    weights of a family that the trials determine. A site's relevance is such a scale of its own, see `_relevance`.
    """
    found = starting_scales(space)
    if len(y) < LEAST_TRIALS:
        return found
    seen = (x != 0).any(axis=0)
    used, family, site = x, space.families(), space.sites_of_features()
    if not seen.all():
        used, family, site = x[:, seen], family[seen], site[seen]
    primal = None
    if len(y) > used.shape[1]:
        primal = used.T @ used if gram is None else gram[np.ix_(seen, seen)]
    moment = used.T @ y
    for _ in range(_MOST_STEPS if len(y) <= _MANY_TRIALS else _FEW_STEPS):
        prior = found.prior(family, site)
        mean, variance = _moments(used, y, moment, prior, found.noise, primal)
        determined = np.maximum(1 - variance / prior, 0.0)
        residual = float(((y - used @ mean) ** 2).sum())
        updated = max(residual / max(len(y) - float(determined.sum()), 1.0), _LEAST_NOISE)
        settled = abs(np.log(updated / found.noise)) < 1e-2
        found = _rescale(found, family, site, mean**2, determined, updated)
        if settled:
            break
    return found


def _rescale(
    old: Scales, family: IntArray, site: IntArray, square: FloatArray, determined: FloatArray, noise: float
) -> Scales:
    """One step of the fixed point for the families' scales and the sites' relevance."""
    tau, relevance = old.tau.copy(), old.relevance.copy()
    relative = np.where(family == 3, square / relevance[site] ** 2, square)
    for index in range(1, 5):
        mine = family == index
        if mine.any():
            ratio = float(relative[mine].sum()) / max(float(determined[mine].sum()), 1e-6)
            tau[index] = np.sqrt(np.clip(ratio, _LEAST_SCALE**2, 1.0))
    return Scales(tau, _relevance(tau, relevance, family == 3, site, square, determined), noise)


def _relevance(
    tau: FloatArray,
    old: FloatArray,
    own: npt.NDArray[np.bool_],
    site: IntArray,
    square: FloatArray,
    determined: FloatArray,
) -> FloatArray:
    """Each site's factor on the scale of its weights, under a fitted mixture over `_FACTORS`.

    Adaptive shrinkage by site: with γ the determined share of a weight, m/γ is its estimate and τ²r²(1 − γ)/γ
    that estimate's variance, so that the sites' estimates tell how many of them matter, and how much.
    """
    share = np.clip(determined[own], 1e-6, 1 - 1e-9)
    prior = (tau[3] * old[site[own]]) ** 2
    variance, estimate = prior * (1 - share) / share, square[own] / share**2
    total = variance[:, None] + (tau[3] * _FACTORS) ** 2  # (p, M)
    each = -0.5 * (np.log(total) + estimate[:, None] / total)
    logs = np.stack([np.bincount(site[own], column, len(old)) for column in each.T], axis=1)  # (S, M)
    likelihood = np.exp(logs - logs.max(axis=1, keepdims=True))
    weights = _FACTOR_PULL / _FACTOR_PULL.sum()
    for _ in range(30):
        posterior = weights * likelihood
        posterior /= posterior.sum(axis=1, keepdims=True)
        weights = posterior.sum(axis=0) + _FACTOR_PULL
        weights /= weights.sum()
    # the factor that shrinks as the mixture does on average, which its mean square would not
    noise = np.bincount(site[own], variance, len(old)) / np.maximum(np.bincount(site[own], None, len(old)), 1)
    noise = np.where(noise > 0, noise, 1.0)[:, None]
    squares = (tau[3] * _FACTORS) ** 2
    kept = (posterior * squares / (squares + noise)).sum(axis=1, keepdims=True)
    squared = (noise * kept / (1 - kept))[:, 0]
    return np.asarray(np.sqrt(np.maximum(squared / squared.mean(), 1e-4)))


def solve_posterior(
    gram: FloatArray, moment: FloatArray, prior: FloatArray, noise: float, pending: FloatArray | None
) -> tuple[FloatArray, FloatArray]:
    """Posterior mean (p,) and Cholesky factor of the precision, which alone the pending trials enter."""

    precision = gram / noise
    precision[np.diag_indices_from(precision)] += 1 / prior
    root = np.asarray(cholesky(precision, lower=True, check_finite=False))
    mean = np.asarray(cho_solve((root, True), moment / noise, check_finite=False))
    if pending is not None and len(pending):
        root = np.asarray(cholesky(precision + pending.T @ pending / noise, lower=True, check_finite=False))
    return mean, root


def _moments(
    x: FloatArray, y: FloatArray, moment: FloatArray, prior: FloatArray, noise: float, gram: FloatArray | None
) -> tuple[FloatArray, FloatArray]:
    """Posterior mean and variance of each weight; dual (without `gram`) while there are fewer trials than weights."""

    if gram is None:
        weighted = x * prior
        kernel = weighted @ x.T
        kernel[np.diag_indices_from(kernel)] += noise
        solved = cho_solve(cho_factor(kernel, check_finite=False), weighted, check_finite=False)  # (N, p)
        mean = solved.T @ y
        variance = prior - (weighted * solved).sum(axis=0)
    else:
        mean, root = solve_posterior(gram, moment, prior, noise, None)
        # the variances from draws L⁻ᵀz: the fixed point needs their sums alone, and an inverse costs ten times more
        probes = np.random.default_rng(0).choice((-1.0, 1.0), size=(len(prior), _PROBES))
        drawn = solve_triangular(root, probes, lower=True, trans="T", check_finite=False)
        variance = (drawn**2).mean(axis=1)
    return np.asarray(mean), np.maximum(np.asarray(variance), 0.0)
