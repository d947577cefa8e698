"""A Bayesian linear model of accuracy over the sites' choices: what the additive sampler and the recommender share.

y = μ + Σ_sites (a[choice] + b[stage, choice] + w[site, choice]) + Σ_neighbours g[choice, next choice] + ε. Each
family of weights has a normal prior of its own scale; scales and noise are estimated by maximum marginal
likelihood (MacKay's fixed point), so that choices and stages lend to their sites as far as the trials let them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_solve, cholesky, solve_triangular

from reborn_nas.analysis.model.encoding import Space
from reborn_nas.analysis.model.scales import gram_of, scales_of, solve_posterior
from reborn_nas.errors import ConfigError

__all__ = ["Posterior", "fit_additive", "fit_codes"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

MOST_WEIGHTS = 1000
"""With more weights, and fewer trials than weights, the trials' covariance stands for the weights' precision."""


@dataclass(frozen=True)
class Posterior:
    """Weights given the trials: N(`mean`, `precision`⁻¹).

    Args:
        space: what the weights belong to.
        mean: (p,).
        around: how the weights lie around it.
        sigma: noise of one trial, in the values' unit.
        scales: prior standard deviation of each family (mean, choice, stage, site, neighbours).
        relevance: (S,) factor of each site on the scale of its own weights.
        n_trials: trials behind it.
    """

    space: Space
    mean: FloatArray
    around: _ByWeights | _ByTrials
    sigma: float
    scales: FloatArray
    relevance: FloatArray
    n_trials: int

    def predict(self, trials: Sequence[Mapping[str, Any]]) -> tuple[FloatArray, FloatArray]:
        """Posterior mean and standard deviation of the expected value of each assignment."""
        return self.predict_codes(self.space.encode(trials))

    def predict_codes(self, codes: IntArray) -> tuple[FloatArray, FloatArray]:
        """`predict` for rows of codes."""
        x = self.space.features(codes)
        return np.asarray(x @ self.mean), self.around.deviations(x)

    def sample(self, rng: np.random.Generator, spread: float = 1.0) -> FloatArray:
        """One draw of the weights, its distance from the mean scaled by `spread`."""
        return np.asarray(self.mean + spread * self.around.draw(rng))


@dataclass(frozen=True)
class _ByWeights:
    """N(0, precision⁻¹) by the lower Cholesky factor (p, p) of the precision: for fewer weights than trials."""

    root: FloatArray

    def draw(self, rng: np.random.Generator) -> FloatArray:
        """(p,) weights."""
        noise = rng.standard_normal(len(self.root))
        return np.asarray(solve_triangular(self.root, noise, lower=True, trans="T", check_finite=False))

    def deviations(self, x: FloatArray) -> FloatArray:
        """(N,) standard deviation of the value at each row of features."""
        half = solve_triangular(self.root, x.T, lower=True, check_finite=False)
        return np.asarray(np.sqrt((half**2).sum(axis=0)))


@dataclass(frozen=True)
class _ByTrials:
    """The same by the trials' covariance K = X diag(prior) Xᵀ + noise: nothing is as large as weights × weights.

    Args:
        x: (N, p) features, those of trials under way too.
        prior: (p,) variances, and `noise` that of one trial.
        root: (N, N) lower Cholesky factor of K.
        unit: factor on everything.
    """

    x: FloatArray
    prior: FloatArray
    noise: float
    root: FloatArray
    unit: float

    def draw(self, rng: np.random.Generator) -> FloatArray:
        """(p,) weights: a draw of the prior, less what the trials would have shown of it (Matheron's rule)."""
        weights = np.sqrt(self.prior) * rng.standard_normal(len(self.prior))
        seen = self.x @ weights + np.sqrt(self.noise) * rng.standard_normal(len(self.x))
        shown = self.prior * (self.x.T @ cho_solve((self.root, True), seen, check_finite=False))
        return np.asarray(self.unit * (weights - shown))

    def deviations(self, x: FloatArray) -> FloatArray:
        """(N,) standard deviation of the value at each row of features."""
        half = solve_triangular(self.root, self.x @ (self.prior * x).T, lower=True, check_finite=False)
        variance = (self.prior * x**2).sum(axis=1) - (half**2).sum(axis=0)
        return np.asarray(self.unit * np.sqrt(np.maximum(variance, 0.0)))


def fit_additive(
    space: Space,
    trials: Sequence[Mapping[str, Any]],
    values: Sequence[float] | FloatArray,
    *,
    pending: Sequence[Mapping[str, Any]] = (),
) -> Posterior:
    """The posterior given finished trials.

    Args:
        space: the parameters.
        trials: assignments parameter → label.
        values: (N,) their values, larger is better; non-finite ones are left out.
        pending: assignments under way elsewhere: they narrow the posterior where they will inform it, without
            moving it, so that parallel workers look in different places.
    """
    return fit_codes(space, space.encode(trials), values, pending=space.encode(pending) if pending else None)


def fit_codes(
    space: Space, codes: IntArray, values: Sequence[float] | FloatArray, *, pending: IntArray | None = None
) -> Posterior:
    """`fit_additive` for trials that are encoded already."""
    outcome = np.asarray(values, dtype=np.float64)
    if outcome.shape != (len(codes),):
        raise ConfigError(
            f"values: one number for each of the {len(codes)} trials, not shape {outcome.shape}"
        )
    keep = np.isfinite(outcome)
    outcome = outcome[keep]
    x = space.features(codes[keep])
    centre = float(outcome.mean()) if len(outcome) else 0.0
    unit = float(outcome.std()) if len(outcome) > 1 else 0.0
    unit = unit if unit > 0 else 1.0
    y = (outcome - centre) / unit
    waiting = space.features(pending if pending is not None else codes[:0])
    many = x.shape[1] > MOST_WEIGHTS and len(x) + len(waiting) < x.shape[1]
    gram = None if many else gram_of(x)
    scales = scales_of(x, y, space, gram)
    prior = scales.prior(space.families(), space.sites_of_features())
    around: _ByWeights | _ByTrials
    if gram is None:
        mean, around = _by_trials(x, y, waiting, prior, scales.noise, unit)
    else:
        mean, root = solve_posterior(gram, x.T @ y, prior, scales.noise, waiting)
        around = _ByWeights(root / unit)
    weights = unit * mean
    weights[0] += centre
    sigma = unit * float(np.sqrt(scales.noise))
    return Posterior(space, weights, around, sigma, unit * scales.tau, scales.relevance, len(outcome))


def _by_trials(
    x: FloatArray, y: FloatArray, waiting: FloatArray, prior: FloatArray, noise: float, unit: float
) -> tuple[FloatArray, _ByTrials]:
    """Posterior mean (p,), and what lies around it, which alone the trials under way enter."""

    def factor(rows: FloatArray) -> FloatArray:
        kernel = (rows * prior) @ rows.T
        kernel[np.diag_indices_from(kernel)] += noise
        return np.asarray(cholesky(kernel, lower=True, check_finite=False))

    root = factor(x)
    mean = prior * (x.T @ cho_solve((root, True), y, check_finite=False))
    everything = np.concatenate([x, waiting])
    around = _ByTrials(everything, prior, noise, factor(everything) if len(waiting) else root, unit)
    return np.asarray(mean), around
