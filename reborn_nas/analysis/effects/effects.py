"""What each site adds: the table of a screen, its bounds under lost runs, and its summaries over stages and depth."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from reborn_nas.analysis.columns import Columns, Table
from reborn_nas.analysis.effects.aliases import fit_screen
from reborn_nas.analysis.effects.budget import SITES
from reborn_nas.analysis.effects.collapse import collapsed
from reborn_nas.analysis.effects.linear import Fit, as_accuracy, as_design, block_codes
from reborn_nas.analysis.effects.screening import COLUMNS, FURTHER_COLUMNS, complete_effects, with_said
from reborn_nas.analysis.effects.verdicts import NO_VERDICT, joint_interval
from reborn_nas.analysis.student import t_quantile, two_sided_p
from reborn_nas.errors import ConfigError
from reborn_nas.metric import ACCURACY, Metric, unknown_chance

__all__ = ["COLUMNS", "FURTHER_COLUMNS", "depth_slope", "score_effects", "site_effects", "stage_means"]


def site_effects(
    design: Any,
    accuracy: Any,
    *,
    names: Sequence[Any] | None = None,
    block: Any = None,
    covariates: Any = None,
    stages: Sequence[Any] | None = None,
    seed: int = 0,
    chance: float | None = None,
    failed: Any = None,
    level: float = SITES,
    metric: Metric = ACCURACY,
) -> pd.DataFrame:
    """The average marginal effect of each site in a screen, one row a site, in percentage points (pp).

    Of another metric than the accuracy in that metric's unit: an effect above 0 is an improvement, also where smaller
    values are better.

    y = μ + block + Σ βᵢxᵢ + covariates + ε with xᵢ = ±½, by least squares over the runs that converged
    (`collapse.collapsed`); two-sided t and Benjamini–Hochberg over the sites; shrinkage; P(top-5) and 90 % rank
    intervals (rank 1 is best), where they are calibrated. The verdict is that of the screen alone: `suggestive`,
    `harmful` or `unresolved` (`verdicts` adds the retest), and `no verdict` where the runs cannot carry one.

    Args:
        design: (N, n) bool, True where the site is reborn.
        accuracy: (N,) values of the metric, of the accuracy in [0, 1]; NaN for a missing run.
        names: the sites' names; 0 … n−1 without.
        block: (N,) the train/validation split of each run.
        covariates: (N, k) such as `option_counts(kernel=…)`.
        stages: the stage of each site, added as a last column `stage`.
        seed: of the draws behind P(top-5) and the rank intervals.
        chance: accuracy of a guess: what tells a collapsed run, and one of the two readings of a missing one. Without,
            the metric's `worst`, or a value far below all that were seen.
        failed: (N,) bool, runs that are known to have failed, such as those whose loss was not finite.
        level: of Benjamini–Hochberg.
        metric: what the values are of; the accuracy without.

    Returns:
        A table with the columns `COLUMNS` and `FURTHER_COLUMNS`: the interval that belongs to the verdict (`said_…`),
        the one that holds for all sites together (`joint_…`), and the failed runs with and without the site, with the
        p value of its making them fail, whether it does (`makes_fail`), and whether it keeps them from it
        (`fails_without`). Its `attrs` hold sigma (pp), df, n_runs, missing, collapsed, detectable (pp, 80 % power),
        max_correlation, level and warnings. With missing runs also `at_chance` and `at_block_mean`, the effects under
        both readings of them, and `lost_low` and `lost_high`, what the joint intervals of both hold.

    Raises:
        ConfigError: fewer runs than parameters, a site that the runs cannot tell from others, or values outside of
            the metric's range.

    Example:
        >>> table = site_effects(screen_design(33, 96), accuracy)
        >>> table = site_effects(design, errors, metric=Metric("rmse", unit="degrees", higher_is_better=False))
    """
    given = np.asarray(accuracy, dtype=np.float64)
    scores = np.array([metric.score(value) for value in given.ravel().tolist()]).reshape(given.shape)
    guess = unknown_chance(scores) if chance is None and not metric.is_accuracy else 0.0
    if chance is not None:
        guess = metric.score(chance)
    elif metric.worst_score is not None:
        guess = metric.worst_score
    table = score_effects(
        design, scores, names=names, block=block, covariates=covariates, stages=stages, seed=seed, chance=guess,
        failed=failed, level=level,
    )  # fmt: skip
    table.attrs |= {"metric": metric.text, "unit": metric.unit}
    return table


def score_effects(
    design: Any,
    accuracy: Any,
    *,
    names: Sequence[Any] | None = None,
    block: Any = None,
    covariates: Any = None,
    stages: Sequence[Any] | None = None,
    seed: int = 0,
    chance: float = 0.0,
    failed: Any = None,
    level: float = SITES,
) -> pd.DataFrame:
    """`site_effects` of scores (see `reborn_nas.metric`), which records hold."""
    levels = as_design(design)
    outcome = as_accuracy(accuracy, len(levels))
    found = score_columns(
        levels, outcome, names=names, block=block, covariates=covariates, seed=seed, chance=chance, failed=failed,
        level=level,
    )  # fmt: skip
    for line in found.attrs["warnings"]:
        warnings.warn(line, UserWarning, stacklevel=3)
    table = found.frame()
    n = levels.shape[1]
    if stages is not None:
        if len(stages) != n:
            raise ConfigError(f"stages: one value for each of the {n} sites, got {len(stages)}")
        table["stage"] = list(stages)
    return table


def score_columns(
    levels: npt.NDArray[np.bool_], outcome: npt.NDArray[np.float64], *, seed: int = 0, **told: Any
) -> Columns:
    """`score_effects` before it is a DataFrame, its warnings in `attrs` alone.

    Args:
        levels, outcome: checked.
        told: names, block, covariates, chance, failed, level.
    """
    table = complete_effects(levels, outcome, seed=seed, **told)
    missing = int(np.isnan(outcome).sum())
    notes = list(table.attrs["warnings"])
    if missing:
        notes.append(
            f"{missing} of {len(levels)} designed runs are missing: verdicts only where both readings of them agree"
        )
        at_chance, at_mean = _readings(levels, outcome, np.isnan(outcome), told)
        able = table["verdict"] != NO_VERDICT
        table["verdict"] = np.where(able, _agreed(at_chance, at_mean), table["verdict"])
        for name in ("makes_fail", "fails_without"):
            table[name] = table[name] & at_chance[name] & at_mean[name]
        joint = [joint_interval(reading, told["level"]) for reading in (at_chance, at_mean)]
        table["lost_low"], table["lost_high"] = (
            np.fmin(*(one[0] for one in joint)),
            np.fmax(*(one[1] for one in joint)),
        )
        with_said(table, told["level"])
        table["at_chance"], table["at_block_mean"] = at_chance["effect"], at_mean["effect"]
    table.attrs |= {"missing": missing, "warnings": tuple(notes)}
    return table


def stage_means(
    design: Any, accuracy: Any, stages: Sequence[Any], *, block: Any = None, covariates: Any = None
) -> pd.DataFrame:
    """Mean effect of each stage's sites, w'β̂ ± t√(w'Vw): columns stage, sites, effect, ci_low, ci_high, p_value."""
    fitted = fit_screen(design, accuracy, block=block, covariates=covariates)
    if len(stages) != len(fitted.beta):
        raise ConfigError(f"stages: one value for each of the {len(fitted.beta)} sites, got {len(stages)}")
    levels = list(dict.fromkeys(stages))
    members = [np.array([stage == level for stage in stages]) for level in levels]
    found = [_contrast(fitted, here / here.sum()) for here in members]
    counts = [int(here.sum()) for here in members]
    return pd.DataFrame(
        {"stage": levels, "sites": counts} | {name: [one[name] for one in found] for name in found[0]}
    )


def depth_slope(effect: Any, depth: Any = None) -> dict[str, float]:
    """How the effect changes from the first site to the last: least squares of the sites' estimates on their depth.

    Its error is the scatter of the sites around the line, on n − 2 degrees of freedom: sites differ from one another
    besides their depth, and such differences alone must not make a trend. With equal standard errors this is the
    random-effects regression by REML with Knapp and Hartung's interval.

    Args:
        effect: (n,) estimates in pp, NaN where there is none.
        depth: (n,) position of each site; 0 at the first and 1 at the last by default, so that the slope is
            the fitted difference between the two ends, in pp.

    Returns:
        effect, ci_low, ci_high, p_value.

    Raises:
        ConfigError: fewer than three sites with an estimate, or all at one depth.
    """
    values = np.asarray(effect, dtype=np.float64)
    position = np.linspace(0, 1, len(values)) if depth is None else np.asarray(depth, dtype=np.float64)
    if position.shape != values.shape or np.isfinite(values).sum() < 3:
        raise ConfigError("depth: one number for each site, at least three of which have an estimate")
    there = np.isfinite(values)
    if np.ptp(position[there]) == 0:
        raise ConfigError("depth: the sites' depths are all the same")
    line = stats.linregress(position[there], values[there])
    half = t_quantile(0.025, int(there.sum()) - 2) * float(line.stderr)
    slope = float(line.slope)
    return {"effect": slope, "ci_low": slope - half, "ci_high": slope + half, "p_value": float(line.pvalue)}


def _contrast(fitted: Fit, weight: npt.NDArray[np.float64]) -> dict[str, float]:
    effect = float(weight @ fitted.beta)
    se = float(np.sqrt(weight @ fitted.cov @ weight))
    half = t_quantile(0.025, fitted.df) * se
    p_value = float(two_sided_p(np.array([effect]), np.array([se]), fitted.df)[0])
    return {"effect": effect, "ci_low": effect - half, "ci_high": effect + half, "p_value": p_value}


@dataclass(frozen=True)
class LossBounds:
    """The screen's table under both readings of its lost runs.

    Args:
        chance: as if every lost run had come out at chance. Where that is a collapse by the one rule for it
            (`collapse.collapsed`), the effects are those among the other runs, as for any collapsed run.
        block_mean: as if every lost run had been an ordinary one, at its block's mean.
        lost: runs that were replaced.
    """

    chance: pd.DataFrame
    block_mean: pd.DataFrame
    lost: int


def loss_bounds(
    design: Any,
    accuracy: Any,
    *,
    lost: Any = None,
    chance: float = 0.0,
    names: Sequence[Any] | None = None,
    block: Any = None,
    covariates: Any = None,
    failed: Any = None,
    level: float = 0.05,
) -> LossBounds:
    """`site_effects` with the lost runs at chance and at their block's mean.

    Args:
        design, accuracy, names, block, covariates, failed, level: as in `site_effects`.
        lost: (N,) bool; the missing runs (NaN accuracy) without, and always counted among them.
        chance: accuracy of a guess, such as 1/classes.
    """
    levels = as_design(design)
    outcome = as_accuracy(accuracy, len(levels))
    gone = np.isnan(outcome) if lost is None else np.asarray(lost, dtype=np.bool_) | np.isnan(outcome)
    if gone.shape != outcome.shape or gone.all():
        raise ConfigError("lost: one bool a run, and at least one run that was not lost")
    told = {"names": names, "block": block, "covariates": covariates, "chance": chance, "failed": failed}
    tables = [found.frame() for found in _readings(levels, outcome, gone, told | {"level": level})]
    return LossBounds(tables[0], tables[1], int(gone.sum()))


def _readings(
    levels: npt.NDArray[np.bool_],
    outcome: npt.NDArray[np.float64],
    gone: npt.NDArray[np.bool_],
    told: Mapping[str, Any],
) -> tuple[Columns, Columns]:
    """The table with the lost runs at chance, and with them at their block's mean."""
    ordinary = ~(gone | collapsed(outcome, told["chance"], told["failed"]))
    filled = np.where(gone, told["chance"], outcome), _at_block_mean(outcome, gone, ordinary, told["block"])
    at_chance, at_mean = (complete_effects(levels, one, **told) for one in filled)
    return at_chance, at_mean


def agreed_verdicts(bounds: LossBounds) -> npt.NDArray[np.object_]:
    """The verdict on which both readings agree, `no verdict` elsewhere."""
    return _agreed(bounds.chance, bounds.block_mean)


def _agreed(at_chance: Table, at_mean: Table) -> npt.NDArray[np.object_]:
    first, second = (np.asarray(table["verdict"], dtype=object) for table in (at_chance, at_mean))
    return np.where(first == second, first, NO_VERDICT).astype(object)


def _at_block_mean(
    outcome: npt.NDArray[np.float64], gone: npt.NDArray[np.bool_], ordinary: npt.NDArray[np.bool_], block: Any
) -> npt.NDArray[np.float64]:
    blocks = np.zeros(len(outcome), dtype=np.int64) if block is None else block_codes(block)
    filled = outcome.copy()
    overall = outcome[ordinary if ordinary.any() else ~gone].mean()
    for index in np.unique(blocks):
        here = blocks == index
        kept = outcome[here & ordinary]
        filled[here & gone] = kept.mean() if len(kept) else overall
    return filled
