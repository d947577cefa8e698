"""Budgets learned from what the trials cost: parameters and MACs add up over the sites, so few trials tell them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from reborn_nas.analysis.additive import fit_codes
from reborn_nas.analysis.encoding import ABSENT, Space
from reborn_nas.analysis.maximise import Budget

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

LEAST_TRIALS = 8


def learned_budgets(
    space: Space,
    trials: Sequence[Mapping[str, Any]],
    excess: Sequence[Sequence[float]] | FloatArray,
    *,
    margin: float = 8.0,
) -> tuple[Budget, ...]:
    """One `Budget` for each constraint, from an additive model of the trials' excess.

    Args:
        space: the parameters.
        trials: assignments, rejected ones too: they were costed although never trained.
        excess: (N, k) by how much each trial exceeds each limit, ≤ 0 where it fits (Optuna's constraints).
        margin: the limits are tightened by so many posterior standard deviations of a trial that nearly fits.

    Returns:
        At most k budgets; none with fewer than 8 trials. A constraint that no trial broke is left out, and one
        that never varies: a mere flag, not an amount.
    """
    table = (
        np.asarray(excess, dtype=np.float64).reshape(len(trials), -1)
        if np.size(excess)
        else np.zeros((len(trials), 0))
    )
    return learned_budgets_of(space, space.encode(trials), table, margin=margin)


def learned_budgets_of(
    space: Space, codes: IntArray, excess: FloatArray, *, margin: float = 8.0
) -> tuple[Budget, ...]:
    """`learned_budgets` for trials that are encoded already."""
    plain = Space(space.choices, space.stages, neighbours=False)
    budgets = []
    for column in excess.T if len(codes) >= LEAST_TRIALS else ():
        known = np.isfinite(column)
        if known.sum() < LEAST_TRIALS or not (column[known] > 0).any() or np.ptp(column[known]) == 0:
            continue
        posterior = fit_codes(plain, codes[known], column[known])
        near = np.argsort(np.abs(column[known]))[: max(4, int(known.sum()) // 5)]
        slack = margin * float(posterior.predict_codes(codes[known][near])[1].mean())
        utility, _ = plain.utilities(posterior.mean)
        costs = {
            name: {label: float(utility[row, plain.labels.index(label)]) for label in plain.choices[name]}
            for row, name in enumerate(plain.names)
        }
        budgets.append(Budget(costs, limit=-slack, base=float(posterior.mean[0]), name="constraint"))
    return tuple(budgets)


def corrected(budget: Budget, space: Space, codes: IntArray, excess: FloatArray) -> Budget:
    """`budget`, its limit lowered by what the trials cost beyond its sums: nothing where costs add up.

    Args:
        codes: (N, S) the trials.
        excess: (N,) by what share of the limit each exceeds it, NaN where unknown.
    """
    known = np.isfinite(excess)
    if not known.any():
        return budget
    table, present = budget.table(space), codes[known] != ABSENT
    sites = np.arange(codes.shape[1])
    summed = budget.base + np.where(present, table[sites, np.maximum(codes[known], 0)], 0.0).sum(axis=1)
    true = (1 + excess[known]) * budget.limit
    beyond = float(np.quantile(true - summed, 0.95))
    return replace(budget, limit=budget.limit - beyond) if beyond > 1e-9 * budget.limit else budget
