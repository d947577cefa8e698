"""How sure the order of the sites is: P(top-5) and rank intervals, from draws of the estimates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

DRAWS = 4000


@dataclass(frozen=True)
class Ranks:
    """Rank 1 is the largest effect.

    Args:
        p_top: (n,) probability of being among the `top` largest.
        low, high: (n,) 90 % interval of the rank.
    """

    p_top: FloatArray
    low: IntArray
    high: IntArray


def ranks(
    effect: FloatArray, cov: FloatArray, df: int, *, seed: int = 0, top: int = 5, draws: int = DRAWS
) -> Ranks:
    """Ranks over `draws` draws of β̂ + L z √(df/χ²_df), LL' = `cov`: a multivariate t around the estimates."""
    rng = np.random.default_rng(np.random.SeedSequence([abs(seed), int(seed < 0), 5]))
    n = len(effect)
    jitter = 1e-18 + 1e-12 * float(np.trace(cov)) / n
    root = np.linalg.cholesky(cov + jitter * np.eye(n))
    scale = np.sqrt(df / rng.chisquare(df, size=(draws, 1)))
    drawn = effect + (rng.standard_normal((draws, n)) @ root.T) * scale  # (draws, n)
    rank = np.empty((draws, n), dtype=np.int64)
    np.put_along_axis(rank, np.argsort(-drawn, axis=1), np.arange(1, n + 1)[None, :], axis=1)
    low, high = np.quantile(rank, (0.05, 0.95), axis=0, method="inverted_cdf")
    return Ranks((rank <= top).mean(axis=0), low.astype(np.int64), high.astype(np.int64))
