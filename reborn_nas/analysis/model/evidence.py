"""The additive model with its prior scales integrated over: slower than `fit_additive`, and honest with few trials.

With fifty trials the scales are hardly known, and a posterior that takes their best guess for the truth is too
sure of itself. Here the scales are drawn by adaptive importance sampling and the posteriors averaged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_solve, solve_triangular
from scipy.special import logsumexp, ndtr

from reborn_nas.analysis.model.encoding import Space
from reborn_nas.analysis.model.scales import estimate_scales, starting_scales
from reborn_nas.errors import ConfigError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_ROUNDS, _DRAWS = 4, 32
_MANY_TRIALS = 400
_KEPT = 24
"""Draws with the largest weights, which make the mixture."""


@dataclass(frozen=True)
class Mixture:
    """A weighted mixture of normal posteriors, one for each draw of the scales.

    Args:
        space: the parameters.
        mean: (p,) posterior mean of the weights.
        shares: (K,) weights of the draws.
        scales: (K, 5) prior scales of the families.
        noise: (K,) noise standard deviations, in the values' unit.
        codes: (N, S) the trials.
        x: (N, p) features of the trials, times `stretch`.
        stretch: (p,) the sites' relevance.
        roots: (K, N, N) Cholesky factors of the trials' covariance.
        residuals: (K, N) covariance⁻¹ (y − centre).
        centre: mean of the values, and `unit` their standard deviation.
    """

    space: Space
    mean: FloatArray
    shares: FloatArray
    scales: FloatArray
    noise: FloatArray
    codes: IntArray
    x: FloatArray
    stretch: FloatArray
    roots: tuple[FloatArray, ...]
    residuals: FloatArray
    centre: float
    unit: float

    @property
    def sigma(self) -> float:
        """Noise of one trial: root of the mean variance."""
        return float(np.sqrt(self.shares @ self.noise**2))

    def predict_codes(self, codes: IntArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """(N,) mean and 95 % interval of the expected value of each row of codes (N, S)."""
        at = self.space.features(codes) * self.stretch
        family = self.space.families()
        means, sds = [], []
        for k, root in enumerate(self.roots):
            prior = self.scales[k][family] ** 2
            cross = (at * prior) @ self.x.T
            half = solve_triangular(root, cross.T, lower=True, check_finite=False)
            means.append(cross @ self.residuals[k])
            sds.append(np.sqrt(np.maximum((at**2 * prior).sum(axis=1) - (half**2).sum(axis=0), 0.0)))
        mean, sd = np.stack(means), np.stack(sds)
        low, high = (_mixture_quantile(self.shares, mean, sd, level) for level in (0.025, 0.975))
        return (
            self.centre + self.unit * (self.shares @ mean),
            self.centre + self.unit * low,
            self.centre + self.unit * high,
        )


def integrate(
    space: Space, trials: Sequence[Mapping[str, Any]], values: Sequence[float] | FloatArray, *, seed: int = 0
) -> Mixture:
    """The posterior given finished trials; arguments as in `fit_additive`."""
    return integrate_codes(space, space.encode(trials), values, seed=seed)


def integrate_codes(
    space: Space, codes: IntArray, values: Sequence[float] | FloatArray, *, seed: int = 0
) -> Mixture:
    """`integrate` for trials that are encoded already."""
    outcome = np.asarray(values, dtype=np.float64)
    keep = np.isfinite(outcome)
    if outcome.shape != (len(codes),) or not keep.any():
        raise ConfigError(
            f"values: one number for each of the {len(codes)} trials, at least one of them finite"
        )
    outcome, codes = outcome[keep], codes[keep]
    raw = space.features(codes)
    centre = float(outcome.mean())
    unit = float(outcome.std()) or 1.0
    y = (outcome - centre) / unit
    stretch = _stretch(space, estimate_scales(space, raw, y).relevance)
    x = raw * stretch
    grams = _family_grams(x, space)
    points, logs = _sample_scales(
        grams, y, space, np.random.default_rng(np.random.SeedSequence([abs(seed), 23]))
    )
    best = np.argsort(-logs)[:_KEPT]
    shares = np.exp(logs[best] - logsumexp(logs[best]))
    best, shares = best[shares > 1e-3], shares[shares > 1e-3]
    shares = shares / shares.sum()
    roots, residuals, scales, noise = [], [], [], []
    mean = np.zeros(x.shape[1])
    family = space.families()
    for share, point in zip(shares, points[best], strict=True):
        tau, variance = _unpack(point, space)
        root = np.linalg.cholesky(_covariance(grams, tau, variance))
        solved = cho_solve((root, True), y, check_finite=False)
        mean += share * tau[family] ** 2 * (x.T @ solved)
        roots.append(np.asarray(root, dtype=np.float64))
        residuals.append(solved)
        scales.append(tau)
        noise.append(unit * np.sqrt(variance))
    weights = unit * mean * stretch
    weights[0] += centre
    return Mixture(
        space,
        weights,
        shares,
        np.array(scales),
        np.array(noise),
        codes,
        x,
        stretch,
        tuple(roots),
        np.array(residuals),
        centre,
        unit,
    )


def _stretch(space: Space, relevance: FloatArray) -> FloatArray:
    """(p,) factor on each feature: its site's relevance for a site's own weights, else 1."""
    return np.asarray(np.where(space.families() == 3, relevance[space.sites_of_features()], 1.0))


def _family_grams(x: FloatArray, space: Space) -> FloatArray:
    family = space.families()
    return np.stack([x[:, family == k] @ x[:, family == k].T for k in range(5)])


def _covariance(grams: FloatArray, tau: FloatArray, variance: float) -> FloatArray:
    kernel = np.tensordot(tau**2, grams, axes=1)
    kernel[np.diag_indices_from(kernel)] += variance
    return np.asarray(kernel)


def _unpack(point: FloatArray, space: Space) -> tuple[FloatArray, float]:
    """Scales (5,) and noise variance at a point (log τ₁ … log τ₄, log σ²), relative to their starting values."""
    start = starting_scales(space)
    return start.tau * np.exp(np.concatenate([[0.0], point[:4]])), float(start.noise * np.exp(point[4]))


def _sample_scales(
    grams: FloatArray, y: FloatArray, space: Space, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Draws (K, 5) and their log weights: importance sampling whose normal proposal learns from the rounds before."""
    draws = _DRAWS if len(y) <= _MANY_TRIALS else _DRAWS // 3
    centre, spread = np.zeros(5), np.eye(5)
    points, targets, proposals = np.zeros((0, 5)), np.zeros(0), []
    for _ in range(_ROUNDS):
        proposals.append((centre, spread))
        new = rng.multivariate_normal(centre, spread, size=draws)
        points = np.concatenate([points, new])
        targets = np.concatenate([targets, [_log_posterior(grams, y, point, space) for point in new]])
        logs = targets - logsumexp([_log_normal(points, *known) for known in proposals], axis=0)
        share = np.exp(logs - logsumexp(logs))
        share = (
            np.minimum(share, 0.25) / np.minimum(share, 0.25).sum()
        )  # one lucky draw must not be all of it
        centre = share @ points
        spread = (points - centre).T @ ((points - centre) * share[:, None]) * 1.5 + 0.02 * np.eye(5)
    return points, logs


def _log_posterior(grams: FloatArray, y: FloatArray, point: FloatArray, space: Space) -> float:
    """Log evidence plus a standard normal prior on each log factor (so: within ×2.7 or so of the start)."""
    tau, variance = _unpack(np.clip(point, -7, 4), space)
    root = np.linalg.cholesky(_covariance(grams, tau, variance))
    half = solve_triangular(root, y, lower=True, check_finite=False)
    return float(-np.log(np.diag(root)).sum() - 0.5 * half @ half - 0.5 * point @ point)


def _log_normal(points: FloatArray, centre: FloatArray, spread: FloatArray) -> FloatArray:
    root = np.linalg.cholesky(spread)
    half = solve_triangular(root, (points - centre).T, lower=True)
    return np.asarray(-np.log(np.diag(root)).sum() - 0.5 * (half**2).sum(axis=0))


def _mixture_quantile(shares: FloatArray, mean: FloatArray, sd: FloatArray, level: float) -> FloatArray:
    """(N,) quantile of Σ shares · N(mean, sd²), columns the assignments, by bisection."""
    safe = np.maximum(sd, 1e-12)
    low, high = (mean - 8 * safe).min(axis=0), (mean + 8 * safe).max(axis=0)
    for _ in range(60):
        middle = 0.5 * (low + high)
        below = shares @ ndtr((middle - mean) / safe) < level
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.asarray(0.5 * (low + high))
