"""What a design could see: the smallest effect that it would find with a given power."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import optimize, special, stats

from reborn_nas.analysis.effects.budget import SITES
from reborn_nas.analysis.student import t_quantile
from reborn_nas.errors import ConfigError

__all__ = ["minimum_detectable_effect", "screen_power"]

_QUANTILES = 400
"""Of the estimated spread, over which the power is averaged; scipy's noncentral t gives NaN at 3 degrees of freedom."""


def minimum_detectable_effect(
    n_runs: int,
    n_sites: int = 1,
    sigma: float = 0.3,
    *,
    power: float = 0.8,
    q: float = SITES,
    df: int | None = None,
    true_sites: int = 1,
) -> float:
    """The effect, in `sigma`'s unit (pp), that a screen finds at each of `true_sites` with probability `power`.

    A site's standard error is 2s/√N on `df` degrees of freedom, so the power is that of a noncentral t. Of `n_sites`
    sites tested by Benjamini and Hochberg at level `q`, one is tested at about α = q · (1 + (k − 1) · power) / n_sites:
    the other k − 1 `true_sites` are found in that share of studies, and each that is found raises the level for the
    rest.

    Args:
        df: residual degrees of freedom; without, those of a screen on one split, N − sites − 1.

    Example:
        >>> [round(minimum_detectable_effect(n, 33, df=n - 37), 2) for n in (72, 96, 144)]
        [0.31, 0.26, 0.21]
    """
    if n_runs < 1 or n_sites < 1 or not sigma >= 0 or not 0 < power < 1 or not 0 < q < 1:
        raise ConfigError(
            "minimum_detectable_effect: n_runs ≥ 1, n_sites ≥ 1, sigma ≥ 0, power and q in (0, 1); got "
            f"n_runs={n_runs}, n_sites={n_sites}, sigma={sigma}, power={power}, q={q}"
        )
    if df is not None and df < 1:
        raise ConfigError(f"minimum_detectable_effect: df is at least 1, not {df}")
    if true_sites < 1:
        raise ConfigError(f"minimum_detectable_effect: true_sites is at least 1, not {true_sites}")
    free = max(1, n_runs - n_sites - 1) if df is None else df
    level = _level(q, min(true_sites, n_sites), n_sites, power)
    return float(_noncentrality(power, level, free) * 2 * sigma / np.sqrt(n_runs))


def screen_power(
    effect: float,
    n_runs: int,
    n_sites: int = 1,
    sigma: float = 0.3,
    *,
    q: float = SITES,
    df: int | None = None,
    true_sites: int = 1,
) -> float:
    """Probability that a screen finds a site of this effect, as in `minimum_detectable_effect`."""
    free = max(1, n_runs - n_sites - 1) if df is None else df
    shift = abs(effect) * np.sqrt(n_runs) / (2 * sigma)

    def surplus(power: float) -> float:
        level = _level(q, min(true_sites, n_sites), n_sites, power)
        return _power(shift, level, free) - power

    return float(optimize.brentq(surplus, 0.0, 1.0))


def _level(q: float, true_sites: int, n_sites: int, power: float) -> float:
    return q * (1 + (true_sites - 1) * power) / n_sites


@lru_cache(maxsize=4096)
def _noncentrality(power: float, level: float, df: int) -> float:
    """The effect in standard errors that a two-sided t test at `level` finds with probability `power`."""
    high = 2.0
    while _power(high, level, df) < power:
        high *= 2
    return float(optimize.brentq(lambda shift: _power(shift, level, df) - power, 0.0, high))


def _power(shift: float, level: float, df: int) -> float:
    critical = t_quantile(level / 2, df) * _spreads(df)
    return float((special.ndtr(shift - critical) + special.ndtr(-shift - critical)).mean())


@lru_cache(maxsize=256)
def _spreads(df: int) -> npt.NDArray[np.float64]:
    """Quantiles of the estimated over the true standard deviation."""
    share = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    return np.asarray(np.sqrt(stats.chi2.ppf(share, df) / df))
