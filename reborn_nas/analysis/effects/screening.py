"""The table of a screen's effects, from the runs that there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from reborn_nas.analysis.columns import Columns
from reborn_nas.analysis.designs.design import MOST_SITES, smallest_screen
from reborn_nas.analysis.effects.aliases import JOINT_LEVEL, fit_screen
from reborn_nas.analysis.effects.budget import SITES
from reborn_nas.analysis.effects.collapse import collapsed, failures_by_site
from reborn_nas.analysis.effects.linear import (
    NO_NOISE,
    Fit,
    as_design,
    site_names,
)
from reborn_nas.analysis.effects.power import minimum_detectable_effect
from reborn_nas.analysis.effects.shrinkage import ranks, shrink
from reborn_nas.analysis.effects.verdicts import (
    HARMFUL,
    NO_VERDICT,
    SUGGESTIVE,
    joint_interval,
    screen_verdicts,
    settled,
)
from reborn_nas.analysis.student import t_quantile, two_sided_p
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
FURTHER_COLUMNS = (
    "said_low",
    "said_high",
    "joint_low",
    "joint_high",
    "ended_with",
    "ended_without",
    "failed_with",
    "failed_without",
    "failure_p",
    "makes_fail",
    "fails_without",
)

JOINT_WORDS = (
    "joint effects of three or more sites show in these runs and can look like one site's: the intervals are as wide "
    "as that needs"
)


def complete_effects(
    levels: npt.NDArray[np.bool_],
    outcome: npt.NDArray[np.float64],
    *,
    names: Sequence[Any] | None,
    block: Any,
    covariates: Any,
    chance: float,
    failed: Any,
    level: float,
    seed: int = 0,
) -> Columns:
    """`site_effects` of the runs that there are, without a word on those that are missing."""
    listed = site_names(names, levels.shape[1])
    fallen = collapsed(outcome, chance, failed)
    try:
        fitted, estimable = fit_converged(
            levels, outcome, fallen, block=block, covariates=covariates, names=names
        )
        joint = [JOINT_WORDS] if fitted.joint_p <= JOINT_LEVEL else []
        weak = _weaknesses(levels, fitted)
        table = effect_table(fitted, listed, estimable, seed=seed, level=level)
        notes = [*weak, *_collapse_words(fallen, listed, estimable), *joint]
        if weak:
            table["verdict"] = np.full(len(listed), NO_VERDICT, dtype=object)
    except ConfigError:
        if not fallen.any():
            raise
        fitted, table = None, _blank(listed)
        notes = [
            f"{int(fallen.sum())} of {len(fallen)} designed runs collapsed: the others are too few for any effect"
        ]
    ended = np.isfinite(outcome) | fallen
    lost = failures_by_site(levels[ended], fallen[ended])
    with_said(table, level)
    table["ended_with"], table["ended_without"] = levels[ended].sum(axis=0), (~levels[ended]).sum(axis=0)
    table["failed_with"], table["failed_without"] = lost.with_level, lost.without_level
    table["failure_p"], table["makes_fail"], table["fails_without"] = lost.p_value, lost.named, lost.rescued
    table.attrs |= _figures(fitted, levels, level) | {
        "missing": 0,
        "collapsed": int(fallen.sum()),
        "max_correlation": largest_correlation(levels),
        "level": level,
        "warnings": tuple(notes),
    }
    return table


def _figures(fitted: Fit | None, levels: npt.NDArray[np.bool_], level: float) -> dict[str, float]:
    """The numbers behind the table; NaN without a fit."""
    if fitted is None:
        return {"sigma": float("nan"), "df": 0, "n_runs": 0, "detectable": float("nan"), "widening": 1.0}
    n_sites = levels.shape[1]
    wider = 1.0 if fitted.widening is None else float(fitted.widening.mean())
    seen = minimum_detectable_effect(fitted.n_runs, n_sites, wider * fitted.sigma, df=fitted.df, q=level)
    return {
        "sigma": fitted.sigma, "df": fitted.df, "n_runs": fitted.n_runs, "detectable": seen, "widening": wider,
    }  # fmt: skip


def _blank(names: Sequence[Any]) -> Columns:
    """The columns `COLUMNS` without any number."""
    numbers = {name: np.full(len(names), np.nan) for name in COLUMNS}
    return Columns(numbers | {"site": list(names), "verdict": np.full(len(names), NO_VERDICT, dtype=object)})


def fit_converged(
    levels: npt.NDArray[np.bool_],
    outcome: npt.NDArray[np.float64],
    fallen: npt.NDArray[np.bool_],
    *,
    block: Any = None,
    covariates: Any = None,
    names: Sequence[Any] | None = None,
) -> tuple[Fit, npt.NDArray[np.bool_]]:
    """The fit over the runs that converged, and which sites it estimates.

    A site all of whose runs at one level collapsed has no effect among the others; that it makes them fail is another
    answer.
    """
    kept = np.isfinite(outcome) & ~fallen
    estimable = np.ones(levels.shape[1], dtype=np.bool_)
    if fallen.any():
        varied, left = (rows.any(axis=0) & ~rows.all(axis=0) for rows in (levels, levels[kept]))
        estimable = np.asarray(left | ~varied, dtype=np.bool_)
    listed = np.array(site_names(names, levels.shape[1]), dtype=object)
    if not estimable.any() or not kept.any():
        raise ConfigError(
            f"{int(fallen.sum())} of {len(outcome)} runs collapsed: too few converged to estimate any effect"
        )
    fitted = fit_screen(
        levels[:, estimable],
        np.where(fallen, np.nan, outcome),
        block=block,
        covariates=covariates,
        names=list(listed[estimable]),
    )
    return fitted, estimable


def effect_table(
    fitted: Fit,
    names: Sequence[Any],
    estimable: npt.NDArray[np.bool_] | None = None,
    *,
    seed: int = 0,
    level: float = SITES,
) -> Columns:
    """The columns `COLUMNS` of `site_effects` from a fit; without numbers for the sites that it does not estimate."""
    beta, se = fitted.beta, fitted.se
    half = t_quantile(0.025, fitted.df) * se
    p_value = two_sided_p(beta, se, fitted.df)
    q_value = stats.false_discovery_control(p_value, method="bh")
    posterior = shrink(beta, se, fitted.df, fitted.widening)
    order = ranks(posterior, se, seed=seed)
    numbers = (
        beta, beta - half, beta + half, p_value, q_value, posterior.mean, posterior.low, posterior.high, order.p_top,
        order.low, order.high,
    )  # fmt: skip
    words = screen_verdicts(beta, q_value, level)
    table = _blank(names)
    there = slice(None) if estimable is None else estimable
    for name, values in zip(COLUMNS[1:], (*numbers, words), strict=True):
        table[name][there] = values
    table.attrs["df"] = fitted.df
    return table


def with_said(table: Columns, level: float) -> None:
    """Give the table the intervals that belong to its verdicts, and no verdict where they hold 0."""
    selected = np.isin(table["verdict"], (SUGGESTIVE, HARMFUL))
    kept, table["said_low"], table["said_high"] = settled(table, selected, level)
    table["verdict"] = np.where(selected & ~kept, NO_VERDICT, table["verdict"])
    table["joint_low"], table["joint_high"] = joint_interval(table, level)


def _collapse_words(
    fallen: npt.NDArray[np.bool_], names: Sequence[Any], estimable: npt.NDArray[np.bool_]
) -> list[str]:
    if not fallen.any():
        return []
    words = f"{int(fallen.sum())} of {len(fallen)} designed runs collapsed: effects are among those that converged"
    without = [str(name) for name, there in zip(names, estimable) if not there]
    return [words + (f"; none is left to estimate that of {', '.join(without)}" if without else "")]


def largest_correlation(design: Any) -> float:
    """Largest absolute correlation between two sites' columns; 0 in a whole balanced screen."""
    signs = np.where(as_design(design), 1.0, -1.0)
    if signs.shape[1] < 2:
        return 0.0
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = np.abs(np.corrcoef(signs.T))
    np.fill_diagonal(correlation, 0.0)
    return float(np.nan_to_num(correlation, nan=1.0).max())


def _weaknesses(design: npt.NDArray[np.bool_], fitted: Fit) -> list[str]:
    """Why these runs carry no verdict; empty when they do."""
    n_runs, n_sites = design.shape
    notes = []
    if 2 <= n_sites <= MOST_SITES and n_runs < smallest_screen(n_sites):
        notes.append(
            f"{n_runs} runs are fewer than one whole balanced design of {n_sites} sites "
            f"({smallest_screen(n_sites)}): estimates only, no verdict"
        )
    if fitted.sigma <= NO_NOISE:
        notes.append(
            "the runs differ by nothing but their sites and splits, or not at all: the noise of a training is unknown, "
            "so estimates only, no verdict"
        )
    return notes
