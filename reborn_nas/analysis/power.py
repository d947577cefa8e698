"""What a design could see: the smallest effect that it would find with a given power."""

from __future__ import annotations

import numpy as np
from scipy import stats

from reborn_nas.errors import ConfigError

TRUE_SITES = 5
"""Sites taken to have an effect when the multiplicity of a screen is allowed for: the top five."""


def minimum_detectable_effect(
    n_runs: int,
    n_sites: int = 1,
    sigma: float = 0.3,
    *,
    power: float = 0.8,
    q: float = 0.05,
    df: int | None = None,
    true_sites: int = TRUE_SITES,
) -> float:
    """The effect, in `sigma`'s unit (pp), that `n_runs` balanced runs find with probability `power`.

    A site's standard error is 2σ/√N. Benjamini–Hochberg at level `q` over `n_sites`, of which `true_sites` have
    an effect and are found, tests each at about α = q · true_sites / n_sites, and the power is that of the
    two-sided test: (z_{1−α/2} + z_power) · 2σ/√N. With `df` given, t quantiles take the place of z.

    Example:
        >>> [round(minimum_detectable_effect(n, 33), 2) for n in (72, 96, 144)]
        [0.25, 0.22, 0.18]
    """
    if n_runs < 1 or n_sites < 1 or not sigma >= 0 or not 0 < power < 1 or not 0 < q < 1:
        raise ConfigError(
            "minimum_detectable_effect: n_runs ≥ 1, n_sites ≥ 1, sigma ≥ 0, power and q in (0, 1); got "
            f"n_runs={n_runs}, n_sites={n_sites}, sigma={sigma}, power={power}, q={q}"
        )
    if df is not None and df < 1:
        raise ConfigError(f"minimum_detectable_effect: df is at least 1, not {df}")
    alpha = q * min(true_sites, n_sites) / n_sites
    if df is None:
        quantile = stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(power)
    else:
        quantile = stats.t.ppf(1 - alpha / 2, df) + stats.t.ppf(power, df)
    return float(quantile * 2 * sigma / np.sqrt(n_runs))
