"""Budgets learned from the trials' excess."""

from __future__ import annotations

import numpy as np

from reborn_nas.analysis.model.constraints import learned_budgets
from reborn_nas.analysis.model.maximise import best_assignment
from reborn_nas.analysis.simulated.surrogate import plant_problem


def test_learned_budgets_keep_suggestions_within_the_limit() -> None:
    """Parameters as networks have them: channels by stage times a factor by choice."""
    problem = plant_problem("additive", seed=0)
    space = problem.space
    channels = np.array([64, 128, 256, 512])[space.stage]
    factor = np.array([0, 9.0, 11.0, 27.0, 2.0, 0.01, 0, 0, 0])
    true = (channels**2)[:, None] * factor[None, :] / 1e6
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 9, (50, 33))
    spent = true[np.arange(33), codes].sum(axis=1)
    limit = float(np.quantile(spent, 0.2))
    trials = [space.decode(row) for row in codes]
    budgets = learned_budgets(space, trials, (spent - limit)[:, None])
    assert len(budgets) == 1
    feasible = 0
    for _ in range(100):  # as Thompson sampling would: another utility each time
        utility = problem.utility + 0.1 * rng.standard_normal(problem.utility.shape)
        chosen = best_assignment(space, utility, None, budgets)
        feasible += true[np.arange(33), chosen].sum() <= limit
    assert feasible >= 95
    unconstrained = best_assignment(space, problem.utility)
    assert true[np.arange(33), unconstrained].sum() > limit


def test_constraints_that_nobody_broke_and_few_trials_make_no_budget() -> None:
    problem = plant_problem("additive", table="convnet8", seed=0)
    codes = np.random.default_rng(0).integers(0, 9, (20, len(problem.space.names)))
    trials = [problem.space.decode(row) for row in codes]
    assert learned_budgets(problem.space, trials, np.full((20, 1), -1.0)) == ()
    assert learned_budgets(problem.space, trials[:5], np.ones((5, 1))) == ()
    assert learned_budgets(problem.space, trials, np.ones((20, 1))) == ()
    assert learned_budgets(problem.space, trials, np.zeros((20, 0))) == ()
