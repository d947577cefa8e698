"""Budgets learned from what the trials cost: parameters and MACs add up over the sites, so few trials tell them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from reborn_nas.analysis.additive import Posterior, fit_codes
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
    return tuple(
        limit.budget(margin * limit.spread) for limit in learn_limits(space, space.encode(trials), table)
    )


@dataclass(frozen=True)
class LearnedLimit:
    """What is believed of a constraint's excess, which adds up over the sites; nothing of it is above 0 that fits.

    Args:
        posterior: of the excess.
        spread: posterior standard deviation of trials that nearly fit.
    """

    posterior: Posterior
    spread: float

    def budget(self, slack: float) -> Budget:
        """The expected excess is to stay `slack` below 0."""
        return self._budget(self.posterior.mean, slack)

    def upper(self, codes: IntArray, deviations: float) -> float:
        """So many posterior standard deviations above the expected excess of the assignment `codes` (S,)."""
        mean, sd = self.posterior.predict_codes(codes[None])
        return float(mean[0] + deviations * sd[0])

    def drawn(self, rng: np.random.Generator) -> Budget:
        """The excess of one posterior draw is to stay below 0."""
        return self._budget(self.posterior.sample(rng), 0.0)

    def _budget(self, weights: FloatArray, slack: float) -> Budget:
        space = self.posterior.space
        utility, _ = space.utilities(weights)
        costs = {
            name: {label: float(utility[row, space.labels.index(label)]) for label in space.choices[name]}
            for row, name in enumerate(space.names)
        }
        return Budget(costs, limit=-slack, base=float(weights[0]), name="constraint")


def learn_limits(space: Space, codes: IntArray, excess: FloatArray) -> tuple[LearnedLimit, ...]:
    """`learned_budgets` before a margin is chosen, for trials that are encoded already."""
    plain = Space(space.choices, space.stages, neighbours=False)
    limits = []
    for column in excess.T if len(codes) >= LEAST_TRIALS else ():
        known = np.isfinite(column)
        if known.sum() < LEAST_TRIALS or not (column[known] > 0).any() or np.ptp(column[known]) == 0:
            continue
        posterior = fit_codes(plain, codes[known], column[known])
        near = np.argsort(np.abs(column[known]))[: max(4, int(known.sum()) // 5)]
        spread = float(posterior.predict_codes(codes[known][near])[1].mean())
        limits.append(LearnedLimit(posterior, spread))
    return tuple(limits)


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
