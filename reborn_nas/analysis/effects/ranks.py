"""How sure the order of the sites is: P(top-5) and rank intervals, from draws of the shrunk effects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from reborn_nas.analysis.effects.shrinkage import Shrunk

FloatArray = npt.NDArray[np.float64]

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
    rank = np.empty(drawn.shape, dtype=np.int64)
    np.put_along_axis(rank, np.argsort(-drawn, axis=1), np.arange(1, n + 1)[None, :], axis=1)
    low, high = np.quantile(rank, (0.05, 0.95), axis=0, method="inverted_cdf")
    return Ranks((rank <= TOP).mean(axis=0), low.astype(np.float64), high.astype(np.float64))
