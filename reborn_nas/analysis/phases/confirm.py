"""The fresh phases: the confirmation on the incumbent, reborn against its positive twin, and the arms of the checks."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from reborn_nas.analysis.columns import Columns
from reborn_nas.analysis.designs.design import LEAST_CONTROL
from reborn_nas.analysis.effects.linear import (
    PP,
    BoolArray,
    Fit,
    FloatArray,
    allow_for_splits,
    as_accuracy,
    as_design,
    block_columns,
    fit,
    inverse_of,
    site_names,
)
from reborn_nas.analysis.student import t_quantile, two_sided_p
from reborn_nas.errors import ConfigError

SATURATED_FROM, LEAST_SATURATED = 32, 24
"""Runs from which the confirmation's model holds all two-factor interactions, and how many of them must have ended."""
CAUSE_LEVEL = 0.002
"""BH level of "because of the negative phase": sites whose gain is capacity alone must never get it. At .05 one such
study in forty would, at .002 one in a thousand; five real causes of .35 pp are still found in three cases of four."""


def confirmation_effects(
    design: Any, accuracy: Any, *, names: Sequence[Any] | None = None, block: Any = None
) -> pd.DataFrame:
    """Effects of the top sites on the incumbent: another quantity than the screen's, never mixed with it.

    With 32 runs or more the model holds all two-factor interactions, so that the error is that of repeats; below that,
    and where the splits take some of the interactions, the main effects only. Standard errors allow for few splits as
    in a screen (`linear.allow_for_splits`). Benjamini–Hochberg over these sites.

    Args:
        design: (n, ≤ 5) bool as from `confirmation_design`.
        accuracy: (n,) in [0, 1] on unused images; NaN where missing.
        names: the sites' names.
        block: (n,) split of each run.

    Returns:
        One row a site: site, effect, ci_low, ci_high, p_value, q_value, in pp; `attrs` hold sigma, df, n_runs
        and interactions (a table first, second, effect, ci_low, ci_high, p_value, as a list of dicts).
    """
    levels = as_design(design)
    outcome = as_accuracy(accuracy, len(levels))
    listed = site_names(names, levels.shape[1])
    pairs = list(itertools.combinations(range(levels.shape[1]), 2))
    signs = np.where(levels, 0.5, -0.5)
    # x_i x_j = ±¼ has the coefficient γ; its contrast is the change in one effect when the other switches
    products = np.column_stack([signs[:, i] * signs[:, j] for i, j in pairs]) if pairs else None
    finished = int(np.isfinite(outcome).sum())
    saturated = len(outcome) >= SATURATED_FROM and finished >= LEAST_SATURATED and products is not None
    try:
        fitted = _fit(levels, outcome, names, block, products if saturated else None)
    except ConfigError:
        if not saturated:
            raise
        fitted = _fit(levels, outcome, names, block)  # splits or lost runs took an interaction along
    table = _table(fitted, listed)
    interactions: list[dict[str, Any]] = []
    if saturated and len(fitted.extra) == len(pairs):
        error = np.sqrt(np.diag(fitted.extra_cov))
        half = t_quantile(0.025, fitted.df) * error
        p_value = two_sided_p(fitted.extra, error, fitted.df)
        found = zip(
            *(one.tolist() for one in (fitted.extra, fitted.extra - half, fitted.extra + half, p_value))
        )
        interactions = [
            {
                "first": listed[i],
                "second": listed[j],
                "effect": effect,
                "ci_low": low,
                "ci_high": high,
                "p_value": p,
            }
            for (i, j), (effect, low, high, p) in zip(pairs, found)
        ]
    table.attrs["interactions"] = interactions
    return table.frame()


def control_effects(
    design: Any, accuracy: Any, *, names: Sequence[Any] | None = None, block: Any = None
) -> pd.DataFrame:
    """reborn − positive twin at each site: the only source of "because of the negative phase".

    Args:
        design: (n, sites) True for reborn, False for its positive twin, as from `control_design`.
        accuracy, names, block: as in `confirmation_effects`.

    Returns:
        One row a site: site, effect, ci_low, ci_high, p_value, q_value, claim (bool: above 0 at q ≤ .002, from
        at least 48 runs; stricter than the screen, because it is the one claim about a cause); `attrs` hold
        sigma, df, n_runs, and mean: the mean effect with its interval.
    """
    levels = as_design(design)
    outcome = as_accuracy(accuracy, len(levels))
    fitted = _fit(levels, outcome, names, block)
    table = _table(fitted, site_names(names, levels.shape[1]))
    enough = len(levels) >= LEAST_CONTROL
    if not enough:
        warnings.warn(
            f"{len(levels)} control runs are fewer than {LEAST_CONTROL}: estimates only, no claim",
            UserWarning,
            stacklevel=2,
        )
    table["claim"] = enough & (table["q_value"] <= CAUSE_LEVEL) & (table["effect"] > 0)
    n = len(fitted.beta)
    mean, se = float(fitted.beta.mean()), float(np.sqrt(fitted.cov.sum())) / n
    half = t_quantile(0.025, fitted.df) * se
    table.attrs["mean"] = {"effect": mean, "ci_low": mean - half, "ci_high": mean + half}
    return table.frame()


def _fit(
    levels: BoolArray, outcome: FloatArray, names: Sequence[Any] | None, block: Any, covariates: Any = None
) -> Fit:
    """Least squares with standard errors that allow for few splits."""
    fitted = fit(levels, outcome, block=block, covariates=covariates, names=names)
    return allow_for_splits(fitted, None if block is None else np.asarray(block)[np.isfinite(outcome)])


def _table(fitted: Fit, names: Sequence[Any]) -> Columns:
    se = fitted.se
    half = t_quantile(0.025, fitted.df) * se
    p_value = two_sided_p(fitted.beta, se, fitted.df)
    return Columns(
        {
            "site": list(names),
            "effect": fitted.beta,
            "ci_low": fitted.beta - half,
            "ci_high": fitted.beta + half,
            "p_value": p_value,
            "q_value": stats.false_discovery_control(p_value, method="bh"),
        },
        {"sigma": fitted.sigma, "df": fitted.df, "n_runs": fitted.n_runs},
    )


def arm_effects(arm: Sequence[Any], accuracy: Any, *, reference: Any, block: Any = None) -> pd.DataFrame:
    """Each arm − `reference` by least squares with the splits taken out; one residual variance for all arms.

    Args:
        arm: the arm of each run.
        accuracy: in [0, 1], NaN where missing.
        reference: the arm that the others are compared with.
        block: the train/validation split of each run; None for one.

    Returns:
        One row an arm other than `reference`, in order of appearance: `arm, runs, effect, ci_low, ci_high, p_value`,
        effects in percentage points with 95 % t intervals, not corrected for the number of arms. `attrs` hold
        `sigma` (pp), `df` and `reference_runs`.

    Raises:
        ConfigError: fewer than two runs of the reference or of every other arm, or nothing left to tell the noise.
    """
    labels = list(arm)
    values = as_accuracy(accuracy, len(labels))
    keep = np.isfinite(values)
    kept = [label for label, there in zip(labels, keep) if there]
    others = [label for label in dict.fromkeys(kept) if label != reference]
    if kept.count(reference) < 2 or not others:
        raise ConfigError(
            f"arms: at least two runs of {reference!r} and another arm are needed, got {kept!r}"
        )
    columns = np.array([[label == other for other in others] for label in kept], dtype=np.float64)
    blocks = block_columns(None if block is None else np.asarray(block)[keep], len(kept))
    matrix = np.hstack([columns, blocks])
    df = len(kept) - matrix.shape[1]
    inverse = inverse_of(matrix) if df >= 1 else None
    if inverse is None:
        raise ConfigError(
            f"arms: {len(kept)} runs over {blocks.shape[1]} splits cannot tell {len(others) + 1} arms and the noise "
            "apart"
        )
    solution = inverse @ (matrix.T @ (PP * values[keep]))
    residuals = PP * values[keep] - matrix @ solution
    sigma = float(np.sqrt(residuals @ residuals / df))
    arms = slice(len(others))
    effect, error = solution[arms], sigma * np.sqrt(np.diag(inverse)[arms])
    half = t_quantile(0.025, df) * error
    table = Columns(
        {
            "arm": others, "runs": [kept.count(other) for other in others], "effect": effect,
            "ci_low": effect - half, "ci_high": effect + half, "p_value": two_sided_p(effect, error, df),
        },
        {"sigma": sigma, "df": df, "reference_runs": kept.count(reference)},
    )  # fmt: skip
    return table.frame()
