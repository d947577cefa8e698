"""Budgets learned from what the trials cost: parameters and MACs add up over the sites, so few trials tell them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from reborn_nas.analysis.model.additive import Posterior, fit_codes
from reborn_nas.analysis.model.encoding import ABSENT, Condition, Space
from reborn_nas.analysis.model.maximise import Budget, best_assignment, cheapest_assignment
from reborn_nas.errors import ConfigError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

LEAST_TRIALS = 8
SAFETY = (3.0, 2.0, 1.0, 0.0)
"""Posterior standard deviations by which an assignment keeps clear of the learned limits: the first that leaves any."""
MOST_STEPS = 8
"""In which a limit is lowered until the assignment keeps clear."""


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
    limits = learn_limits(space, space.encode(trials), table)
    return tuple(limit.budget(margin * limit.spread()) for limit in limits)


@dataclass(frozen=True)
class LearnedLimit:
    """What is believed of a constraint's excess, which adds up over the sites; nothing of it is above 0 that fits.

    Args:
        posterior: of the excess.
        codes: (N, S) the trials behind it.
        excess: (N,) of each of them.
    """

    posterior: Posterior
    codes: IntArray
    excess: FloatArray

    def spread(self) -> float:
        """Posterior standard deviation of the trials that nearly fit, on average."""
        near = np.argsort(np.abs(self.excess))[: max(4, len(self.excess) // 5)]
        return float(self.posterior.predict_codes(self.codes[near])[1].mean())

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
        limits.append(LearnedLimit(posterior, codes[known], column[known]))
    return tuple(limits)


def best_within(
    space: Space,
    weights: FloatArray,
    exact: tuple[Budget, ...],
    learned: tuple[LearnedLimit, ...],
    conditions: Sequence[Condition],
    rng: np.random.Generator,
) -> IntArray:
    """Codes (S,) of the maximiser under `weights` within the limits, as clear of the learned ones as leaves any.

    Where nothing is believed to fit, the learned limits are drawn too: the expectation alone would name the same
    assignment again and again. Where nothing fits then either, it is what exceeds the limits least.
    """
    utilities = space.utilities(weights)
    for safety in SAFETY if learned else SAFETY[:1]:
        with suppress(ConfigError):
            return _kept_clear(space, utilities, exact, learned, conditions, safety)
    drawn = (*exact, *(limit.drawn(rng) for limit in learned))
    try:
        return best_assignment(space, *utilities, drawn, conditions)
    except ConfigError:
        return cheapest_assignment(space, drawn)


def _kept_clear(
    space: Space,
    utilities: tuple[FloatArray, FloatArray | None],
    exact: tuple[Budget, ...],
    learned: tuple[LearnedLimit, ...],
    conditions: Sequence[Condition],
    safety: float,
) -> IntArray:
    """The maximiser that is `safety` of its own standard deviations clear of the learned limits, or ConfigError."""
    slack = np.zeros(len(learned))
    for _ in range(MOST_STEPS):
        budgets = tuple(limit.budget(less) for limit, less in zip(learned, slack, strict=True))
        chosen = best_assignment(space, *utilities, (*exact, *budgets), conditions)
        over = np.array([limit.upper(chosen, safety) for limit in learned])
        if (over <= 0).all():
            return chosen
        slack += 1.05 * np.maximum(over, 0.0)
    raise ConfigError(f"no assignment keeps {safety:g} standard deviations clear of the learned limits")


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
