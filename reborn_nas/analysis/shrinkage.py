"""Adaptive shrinkage: a scale mixture of normals, fitted to the estimates themselves (Stephens 2017)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

FloatArray = npt.NDArray[np.float64]

GRID = (0.0, 0.03, 0.06, 0.1, 0.15, 0.22, 0.32, 0.45)
"""Prior standard deviations g_m in percentage points (pp)."""

_STEPS = 2000
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Shrunk:
    """Posterior of each effect under the fitted prior Σ π_m N(0, g_m²).

    Args:
        mean, low, high: (n,) posterior mean and 95 % credible interval, in the estimates' unit.
        weights: (M,) the fitted π.
    """

    mean: FloatArray
    low: FloatArray
    high: FloatArray
    weights: FloatArray


def shrink(effect: FloatArray, se: FloatArray, grid: tuple[float, ...] = GRID) -> Shrunk:
    """Shrink `effect` (n,) with standard errors `se` (n,) towards 0.

    π by EM from equal weights; then w_m ∝ π_m N(β̂; 0, s² + g_m²), λ_m = g_m²/(g_m² + s²), and the posterior
    is Σ w_m N(λ_m β̂, λ_m s²).
    """
    estimate = np.asarray(effect, dtype=np.float64)[:, None]  # (n, 1)
    variance = np.maximum(np.asarray(se, dtype=np.float64), 1e-12)[:, None] ** 2
    prior = np.asarray(grid)[None, :] ** 2  # (1, M)
    total = variance + prior
    log_likelihood = -0.5 * (np.log(total) + estimate**2 / total)
    likelihood = np.exp(log_likelihood - log_likelihood.max(axis=1, keepdims=True))
    weights = _em(likelihood)
    posterior = weights * likelihood
    posterior /= posterior.sum(axis=1, keepdims=True)
    factor = prior / total
    means, sds = factor * estimate, np.sqrt(factor * variance)
    return Shrunk(
        mean=(posterior * means).sum(axis=1),
        low=_quantile(posterior, means, sds, 0.025),
        high=_quantile(posterior, means, sds, 0.975),
        weights=weights,
    )


def _em(likelihood: FloatArray) -> FloatArray:
    weights = np.full(likelihood.shape[1], 1.0 / likelihood.shape[1])
    for _ in range(_STEPS):
        responsibility = weights * likelihood
        updated = (responsibility / responsibility.sum(axis=1, keepdims=True)).mean(axis=0)
        moved = float(np.abs(updated - weights).max())
        weights = updated
        if moved < _TOLERANCE:
            break
    return np.asarray(weights)


def _quantile(posterior: FloatArray, means: FloatArray, sds: FloatArray, level: float) -> FloatArray:
    """The `level` quantile of each row's mixture by bisection; a component without spread is a point at 0."""
    reach = np.abs(means).max(axis=1) + 6 * sds.max(axis=1) + 1e-12
    low, high = -reach, reach.copy()
    point = sds <= 0
    scale = np.where(point, 1.0, sds)
    for _ in range(60):
        middle = 0.5 * (low + high)
        z = (middle[:, None] - means) / scale
        cdf = (posterior * np.where(point, (middle[:, None] >= 0).astype(np.float64), ndtr(z))).sum(axis=1)
        below = cdf < level
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    # bisection converges on an atom at 0 from either side; say 0 exactly
    return np.where(np.abs(high) < 1e-12, 0.0, high)
