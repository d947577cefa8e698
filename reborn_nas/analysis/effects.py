"""What each site adds: the table of a screen, and its summaries over stages and depth."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from reborn_nas.analysis.design import MOST_SITES, smallest_screen
from reborn_nas.analysis.linear import Fit, as_accuracy, as_design, fit, site_names
from reborn_nas.analysis.power import minimum_detectable_effect
from reborn_nas.analysis.ranks import ranks
from reborn_nas.analysis.shrinkage import shrink
from reborn_nas.analysis.verdicts import NO_VERDICT, screen_verdicts
from reborn_nas.errors import ConfigError

COLUMNS = (
    "site",
    "effect",
    "ci_low",
    "ci_high",
    "p_value",
    "q_value",
    "shrunk",
    "shrunk_low",
    "shrunk_high",
    "p_top5",
    "rank_low",
    "rank_high",
    "verdict",
)


def site_effects(
    design: Any,
    accuracy: Any,
    *,
    names: Sequence[Any] | None = None,
    block: Any = None,
    covariates: Any = None,
    stages: Sequence[Any] | None = None,
    seed: int = 0,
    chance: float = 0.0,
) -> pd.DataFrame:
    """The average marginal effect of each site in a screen, one row a site, in percentage points (pp).

    y = μ + block + Σ βᵢxᵢ + covariates + ε with xᵢ = ±½, by least squares; two-sided t and
    Benjamini–Hochberg over the sites; adaptive shrinkage; P(top-5) and 90 % rank intervals (rank 1 is best).
    The verdict is that of the screen alone: `suggestive`, `harmful` or `unresolved` (`verdicts` adds the
    confirmation), and `no verdict` where the runs cannot carry one.

    Args:
        design: (N, n) bool, True where the site is reborn.
        accuracy: (N,) in [0, 1]; NaN for a missing run. A diverged run keeps its last value.
        names: the sites' names; 0 … n−1 without.
        block: (N,) the train/validation split of each run.
        covariates: (N, k) such as `option_counts(kernel=…)`.
        stages: the stage of each site, added as a last column `stage`.
        seed: of the draws behind P(top-5) and the rank intervals.
        chance: accuracy of a guess, which a missing run is taken to have had in one of its two bounds.

    Returns:
        A table with the columns `COLUMNS`; its `attrs` hold sigma (pp), df, n_runs, missing, detectable (pp,
        80 % power), max_correlation and warnings.

    Raises:
        ConfigError: fewer runs than parameters, or a site that the runs cannot tell from others.

    Example:
        >>> table = site_effects(screen_design(33, 96), accuracy)
    """
    levels = as_design(design)
    outcome = as_accuracy(accuracy, len(levels))
    fitted = fit(levels, outcome, block=block, covariates=covariates, names=names)
    table = effect_table(fitted, site_names(names, levels.shape[1]), seed=seed)
    said = _weaknesses(levels)
    if said:
        table["verdict"] = NO_VERDICT
    missing = int(np.isnan(outcome).sum())
    if missing:
        said.append(
            f"{missing} of {len(levels)} designed runs are missing: verdicts only where both bounds agree"
        )
        table["verdict"] = _bounded_verdicts(table, levels, outcome, block, covariates, chance)
    for line in said:
        warnings.warn(line, UserWarning, stacklevel=2)
    n = levels.shape[1]
    table.attrs = {
        "sigma": fitted.sigma,
        "df": fitted.df,
        "n_runs": fitted.n_runs,
        "missing": missing,
        "detectable": minimum_detectable_effect(fitted.n_runs, n, fitted.sigma, df=fitted.df),
        "max_correlation": largest_correlation(levels),
        "warnings": tuple(said),
    }
    if stages is not None:
        if len(stages) != n:
            raise ConfigError(f"stages: one value for each of the {n} sites, got {len(stages)}")
        table["stage"] = list(stages)
    return table


def effect_table(fitted: Fit, names: Sequence[Any], *, seed: int = 0) -> pd.DataFrame:
    """The table of `site_effects` from a fit."""
    beta, se = fitted.beta, fitted.se
    half = stats.t.ppf(0.975, fitted.df) * se
    p_value = two_sided_p(beta, se, fitted.df)
    q_value = stats.false_discovery_control(p_value, method="bh")
    posterior = shrink(beta, se)
    order = ranks(beta, fitted.cov, fitted.df, seed=seed)
    columns = (
        list(names),
        beta,
        beta - half,
        beta + half,
        p_value,
        q_value,
        posterior.mean,
        posterior.low,
        posterior.high,
        order.p_top,
        order.low,
        order.high,
        screen_verdicts(beta, q_value),
    )
    return pd.DataFrame(dict(zip(COLUMNS, columns, strict=True)))


def two_sided_p(
    effect: npt.NDArray[np.float64], se: npt.NDArray[np.float64], df: float
) -> npt.NDArray[np.float64]:
    """P(|t_df| ≥ |effect| / se); a zero error leaves no doubt, and a zero effect no finding."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(effect) / se
    return np.asarray(np.where(effect == 0, 1.0, 2 * stats.t.sf(np.nan_to_num(t, posinf=np.inf), df)))


def stage_means(
    design: Any, accuracy: Any, stages: Sequence[Any], *, block: Any = None, covariates: Any = None
) -> pd.DataFrame:
    """Mean effect of each stage's sites, w'β̂ ± t√(w'Vw): columns stage, sites, effect, ci_low, ci_high, p_value."""
    fitted = fit(design, accuracy, block=block, covariates=covariates)
    if len(stages) != len(fitted.beta):
        raise ConfigError(f"stages: one value for each of the {len(fitted.beta)} sites, got {len(stages)}")
    codes, levels = pd.factorize(pd.Series(list(stages)), sort=False)
    rows = []
    for code, level in enumerate(levels):
        weight = (codes == code) / (codes == code).sum()
        rows.append({"stage": level, "sites": int((codes == code).sum()), **_contrast(fitted, weight)})
    return pd.DataFrame(rows)


def depth_slope(
    design: Any, accuracy: Any, depth: Any = None, *, block: Any = None, covariates: Any = None
) -> dict[str, float]:
    """How the effect changes from the first site to the last: d'β̂/d'd, d the centred depth.

    Args:
        depth: (n,) position of each site; 0 at the first and 1 at the last by default, so that the slope is
            the fitted difference between the two ends, in pp.

    Returns:
        effect, ci_low, ci_high, p_value.
    """
    fitted = fit(design, accuracy, block=block, covariates=covariates)
    n = len(fitted.beta)
    position = np.linspace(0, 1, n) if depth is None else np.asarray(depth, dtype=np.float64)
    if position.shape != (n,) or np.ptp(position) == 0:
        raise ConfigError(f"depth: one number for each of the {n} sites, not all the same")
    centred = position - position.mean()
    return _contrast(fitted, centred / (centred @ centred))


def largest_correlation(design: Any) -> float:
    """Largest absolute correlation between two sites' columns; 0 in a whole balanced screen."""
    signs = np.where(as_design(design), 1.0, -1.0)
    if signs.shape[1] < 2:
        return 0.0
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = np.abs(np.corrcoef(signs.T))
    np.fill_diagonal(correlation, 0.0)
    return float(np.nan_to_num(correlation, nan=1.0).max())


def _contrast(fitted: Fit, weight: npt.NDArray[np.float64]) -> dict[str, float]:
    effect = float(weight @ fitted.beta)
    se = float(np.sqrt(weight @ fitted.cov @ weight))
    half = float(stats.t.ppf(0.975, fitted.df)) * se
    p_value = float(two_sided_p(np.array([effect]), np.array([se]), fitted.df)[0])
    return {"effect": effect, "ci_low": effect - half, "ci_high": effect + half, "p_value": p_value}


def _weaknesses(design: npt.NDArray[np.bool_]) -> list[str]:
    """Why these runs carry no verdict; empty when they do."""
    n_runs, n_sites = design.shape
    if 2 <= n_sites <= MOST_SITES and n_runs < smallest_screen(n_sites):
        return [
            f"{n_runs} runs are fewer than one whole foldover of {n_sites} sites "
            f"({smallest_screen(n_sites)}): estimates only, no verdict"
        ]
    return []


def _bounded_verdicts(
    table: pd.DataFrame,
    design: npt.NDArray[np.bool_],
    accuracy: npt.NDArray[np.float64],
    block: Any,
    covariates: Any,
    chance: float,
) -> Any:
    from reborn_nas.analysis.losses import agreed_verdicts, loss_bounds

    bounds = loss_bounds(design, accuracy, block=block, covariates=covariates, chance=chance)
    return np.where(table["verdict"] == NO_VERDICT, NO_VERDICT, agreed_verdicts(bounds))
