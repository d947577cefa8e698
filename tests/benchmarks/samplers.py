"""Samplers on planted search problems: the true value of what each recommends, in sd of random architectures.

Every rival gets the same recommender; `best observed` is printed beside it. Run it with

    python -m tests.benchmarks.samplers --problems additive interactions --studies 20 --trials 50 100 200
"""

from __future__ import annotations

import argparse
import platform
import time
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import optuna
import pandas as pd
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from scipy import stats

from reborn_nas.analysis.evidence import integrate
from reborn_nas.analysis.maximise import best_assignment
from reborn_nas.analysis.surrogate import PROBLEMS, SITE_TABLES, plant_problem
from reborn_nas.study import AdditiveSampler

RIVALS: dict[str, Callable[[int, dict[str, int]], BaseSampler]] = {
    "additive": lambda seed, stages: AdditiveSampler(seed=seed, stages=stages),
    "tpe": lambda seed, stages: TPESampler(seed=seed),
    "nsga2": lambda seed, stages: NSGAIISampler(seed=seed),
    "random": lambda seed, stages: RandomSampler(seed=seed),
}


def one_study(
    problem: str, table: str, rival: str, checkpoints: Sequence[int], seed: int
) -> list[dict[str, object]]:
    """One rival on one planted problem: a row a checkpoint."""
    planted = plant_problem(problem, table=table, seed=seed)
    stages = {str(name): int(stage) for name, stage in (planted.space.stages or {}).items()}
    study = optuna.create_study(direction="maximize", sampler=RIVALS[rival](seed, stages))
    trials, values, rows, asked = [], [], [], 0.0
    for number in range(1, max(checkpoints) + 1):
        start = time.process_time()
        trial = study.ask()
        assignment = planted.suggest(trial)
        asked += time.process_time() - start
        value = planted.observe(assignment, seed=10_000 * seed + number)
        study.tell(trial, value)
        trials.append(assignment)
        values.append(value)
        if number in checkpoints:
            mixture = integrate(planted.space, trials, values)
            codes = best_assignment(planted.space, *planted.space.utilities(mixture.mean))
            rows.append(
                {
                    "problem": problem,
                    "rival": rival,
                    "trials": number,
                    "seed": seed,
                    "recommended": float(planted.values(codes[None])[0]),
                    "best observed": planted.value(trials[int(np.argmax(values))]),
                    "optimum": planted.optimum,
                    "ms a suggestion": 1000 * asked / number,
                }
            )
    return rows


def advantage(found: pd.DataFrame) -> pd.DataFrame:
    """Additive − best rival with its 95 % interval over the paired problems, and against TPE's best observed."""
    rows = []
    for (problem, count), part in found.groupby(["problem", "trials"], sort=False):
        wide = part.pivot(index="seed", columns="rival", values="recommended")
        others = [rival for rival in wide.columns if rival != "additive"]
        best = max(others, key=lambda rival: wide[rival].mean())
        for against, values in (
            (f"{best} + recommender", wide[best]),
            ("tpe, best observed", part[part["rival"] == "tpe"].set_index("seed")["best observed"]),
        ):
            gap = (wide["additive"] - values).dropna()
            if len(gap) < 2:
                continue
            half = stats.t.ppf(0.975, len(gap) - 1) * gap.std() / np.sqrt(len(gap))
            rows.append(
                {
                    "problem": problem,
                    "trials": count,
                    "against": against,
                    "gain": gap.mean(),
                    "ci_low": gap.mean() - half,
                    "ci_high": gap.mean() + half,
                }
            )
    return pd.DataFrame(rows)


def main() -> None:
    """Run the rivals and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--problems", nargs="+", default=["additive", "depth", "interactions", "heteroscedastic"]
    )
    parser.add_argument("--table", default="resnet34", choices=sorted(SITE_TABLES))
    parser.add_argument("--rivals", nargs="+", default=list(RIVALS), choices=list(RIVALS))
    parser.add_argument("--studies", type=int, default=20, help="planted problems each")
    parser.add_argument("--trials", type=int, nargs="+", default=[50, 100, 200])
    parser.add_argument("--csv", help="write every row here")
    options = parser.parse_args()
    unknown = set(options.problems) - set(PROBLEMS)
    if unknown:
        parser.error(f"unknown problems {sorted(unknown)}; known: {', '.join(PROBLEMS)}")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    rows: list[dict[str, object]] = []
    for problem in options.problems:
        for seed in range(options.studies):
            for rival in options.rivals:  # rivals alternate, so that a busy machine slows all alike
                rows += one_study(problem, options.table, rival, options.trials, seed)
    found = pd.DataFrame(rows)
    if options.csv:
        found.to_csv(options.csv, index=False)
    print(
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, Optuna {optuna.__version__}"
    )
    columns = ["recommended", "best observed", "optimum", "ms a suggestion"]
    print(found.groupby(["problem", "trials", "rival"], sort=False)[columns].mean().round(2).to_string())
    if "additive" in options.rivals and len(options.rivals) > 1:
        print(advantage(found).round(2).to_string(index=False))


if __name__ == "__main__":
    main()
