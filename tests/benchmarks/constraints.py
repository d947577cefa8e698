"""How many of the additive sampler's suggestions keep a limit: one that it learns, and one that it is handed as sums.

Planted problems on resnet18's 17 sites with 9 choices; each choice has its own cost at each site, e^N(0, 1), and the
limit is the cost that a given share of random architectures keeps. An infeasible suggestion is told as pruned, with its
excess over the limit as a constraint, at no training, as a study does. Counted are the suggestions after the 50th.
Goal: at least 95 % of them feasible.

    python -m tests.benchmarks.constraints [--problems 6] [--first 0] [--trials 120] [--json FILE]
"""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np
import optuna

from reborn_nas.analysis.model.maximise import Budget
from reborn_nas.analysis.simulated.surrogate import Surrogate, plant_problem
from reborn_nas.study import AdditiveSampler
from tests.benchmarks.harness import Row, arguments, begin, goal, print_table, save

SHARES = (0.02, 0.3)
"""Of random architectures that keep the limit."""
FROM = 50


def planted(seed: int, share: float) -> tuple[Surrogate, np.ndarray[Any, Any], float]:
    """A problem, (S, L) costs and the limit on their sum."""
    problem = plant_problem("additive", table="resnet18", seed=seed)
    rng = np.random.default_rng(np.random.SeedSequence([seed, 41]))
    costs = np.exp(rng.standard_normal(problem.utility.shape))
    sites = np.arange(len(costs))
    random = rng.integers(0, costs.shape[1], size=(20_000, len(costs)))
    return problem, costs, float(np.quantile(costs[sites, random].sum(axis=1), share))


def one_study(seed: int, share: float, handed: bool, trials: int) -> list[tuple[tuple[int, ...], bool]]:
    """Each suggestion's codes, and whether it kept the limit."""
    problem, costs, limit = planted(seed, share)
    labels = problem.space.labels
    table = {
        name: dict(zip(labels, row, strict=True))
        for name, row in zip(problem.space.names, costs, strict=True)
    }
    budgets = (Budget(table, limit, name="cost"),) if handed else ()
    stages = {str(name): int(stage) for name, stage in (problem.space.stages or {}).items()}
    sampler = AdditiveSampler(seed=seed, stages=stages, budgets=budgets)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    found = []
    for number in range(trials):
        trial = study.ask()
        assignment = problem.suggest(trial)
        codes = problem.space.encode([assignment])[0]
        excess = float(costs[np.arange(len(codes)), codes].sum()) / limit - 1
        trial.set_constraint("cost", excess)
        found.append((tuple(codes.tolist()), excess <= 0))
        if excess <= 0:
            study.tell(trial, problem.observe(assignment, number))
        else:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    return found


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__)
    parser.add_argument("--problems", type=int, default=6, help="planted problems")
    parser.add_argument("--first", type=int, default=0, help="seed of the first one")
    parser.add_argument("--trials", type=int, default=120, help="suggestions of each study")
    options = parser.parse_args()
    _, until = begin(options)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    rows: list[Row] = []
    for seed in range(options.first, options.first + options.problems):
        for share in SHARES:
            for handed in (False, True):
                if time.monotonic() > until:
                    break
                begun = time.process_time()
                late = [kept for _, kept in one_study(seed, share, handed, options.trials)[FROM:]]
                each = 1000 * (time.process_time() - begun) / options.trials
                rows.append({
                    "problem": seed, "random ones that fit": share, "limit": "handed over" if handed else "learned",
                    "suggestions": len(late), "feasible": float(np.mean(late)) if late else float("nan"),
                    "ms a suggestion": each,
                })  # fmt: skip
    print_table(rows, f"feasible share of the suggestions after the {FROM}th")
    save(options.json, "constraints", rows, goals(rows))


def goals(rows: list[Row]) -> list[Row]:
    """The share over all problems, and the smallest of one problem."""
    found = []
    for limit in ("learned", "handed over"):
        shares = [row["feasible"] for row in rows if row["limit"] == limit]
        for words, value in (("all problems", np.mean), ("the worst problem", np.min)):
            measured = float(value(shares)) if shares else None
            found.append(goal(f"feasible, {limit}, {words}", measured, 0.95))
    return found


if __name__ == "__main__":
    main()
