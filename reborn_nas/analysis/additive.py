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

from reborn_nas.analysis.encoding import Space
from reborn_nas.analysis.scales import scales_of, solve_posterior
from reborn_nas.errors import ConfigError

__all__ = ["Posterior", "fit_additive", "fit_codes"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Posterior:
    """Weights given the trials: N(`mean`, `precision`⁻¹).

    Args:
        space: what the weights belong to.
        mean: (p,).
        root: (p, p) lower Cholesky factor of the precision.
        sigma: noise of one trial, in the values' unit.
        scales: prior standard deviation of each family (mean, choice, stage, site, neighbours).
        relevance: (S,) factor of each site on the scale of its own weights.
        n_trials: trials behind it.
    """

    space: Space
    mean: FloatArray
    root: FloatArray
    sigma: float
    scales: FloatArray
    relevance: FloatArray
    n_trials: int

    def predict(self, trials: Sequence[Mapping[str, Any]]) -> tuple[FloatArray, FloatArray]:
        """Posterior mean and standard deviation of the expected value of each assignment."""
        return self.predict_codes(self.space.encode(trials))

    def predict_codes(self, codes: IntArray) -> tuple[FloatArray, FloatArray]:
        """`predict` for rows of codes."""
        from scipy.linalg import solve_triangular

        x = self.space.features(codes)
        half = solve_triangular(self.root, x.T, lower=True, check_finite=False)
        return np.asarray(x @ self.mean), np.asarray(np.sqrt((half**2).sum(axis=0)))

    def sample(self, rng: np.random.Generator, spread: float = 1.0) -> FloatArray:
        """One draw of the weights, its distance from the mean scaled by `spread`."""
        from scipy.linalg import solve_triangular

        noise = rng.standard_normal(len(self.mean))
        return np.asarray(
            self.mean + spread * solve_triangular(self.root, noise, lower=True, trans="T", check_finite=False)
        )


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
    counts = x.astype(np.float32)  # small whole numbers: their products are exact
    gram = (counts.T @ counts).astype(np.float64)
    scales = scales_of(x, y, gram, space)
    prior = scales.prior(space.families(), space.sites_of_features())
    waiting = space.features(pending) if pending is not None and len(pending) else None
    mean, root = solve_posterior(gram, x.T @ y, prior, scales.noise, waiting)
    weights = unit * mean
    weights[0] += centre
    sigma = unit * float(np.sqrt(scales.noise))
    return Posterior(space, weights, root / unit, sigma, unit * scales.tau, scales.relevance, len(outcome))
