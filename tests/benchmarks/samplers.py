"""Samplers on planted search problems: the true value of what each recommends, in sd of random architectures.

Every rival gets the same recommender; `best observed` is printed beside it. Run it with

    python -m tests.benchmarks.samplers --problems additive interactions --studies 20 --trials 50 100 200

or in pieces, `--first 0 --studies 10 --csv a.csv` and so on, with the tables of all by `--merge *.csv --out NAME`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler

from reborn_nas.analysis.effects.collapse import pull_in
from reborn_nas.analysis.model.evidence import integrate
from reborn_nas.analysis.model.maximise import best_assignment
from reborn_nas.analysis.simulated.surrogate import PROBLEMS, SITE_TABLES, plant_problem
from reborn_nas.files import write_atomic
from reborn_nas.study import AdditiveSampler
from tests.benchmarks.harness import paired, processor

SCALE = (
    "True value of the recommended network, in standard deviations (sd) of random architectures, mean over planted "
    "problems on resnet34's 33 sites with 9 choices each. Every rival has the same recommender; *best observed* is the "
    "true value of the trial with the best observed accuracy. *gain*: additive + recommender less the rival named, the "
    "better of the others at that number of trials, with its 95 % interval over the paired problems."
)

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
            mixture = integrate(planted.space, trials, pull_in(np.array(values)))
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
            mean, low, high = paired(gap)
            about = {"problem": problem, "trials": count, "against": against}
            rows.append({**about, "gain": mean, "ci_low": low, "ci_high": high})
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
    parser.add_argument("--first", type=int, default=0, help="seed of the first planted problem")
    parser.add_argument("--trials", type=int, nargs="+", default=[50, 100, 200])
    parser.add_argument("--csv", help="write every row here")
    parser.add_argument("--merge", nargs="+", metavar="CSV", help="run nothing: the tables of these pieces")
    parser.add_argument("--out", help="write the tables to OUT.md and OUT.json")
    options = parser.parse_args()
    unknown = set(options.problems) - set(PROBLEMS)
    if unknown:
        parser.error(f"unknown problems {sorted(unknown)}; known: {', '.join(PROBLEMS)}")
    if options.merge:
        found = pd.concat([pd.read_csv(path) for path in options.merge], ignore_index=True)
    else:
        found = run(options)
    if options.csv:
        found.to_csv(options.csv, index=False)
    machine = (
        f"{processor()}, {os.cpu_count()} cores, one thread; Python {platform.python_version()}, "
        f"Optuna {optuna.__version__}, numpy {np.__version__}"
    )
    columns = ["recommended", "best observed", "optimum", "ms a suggestion"]
    means = found.groupby(["problem", "trials", "rival"], sort=False)[columns].mean().reset_index()
    counted = found.groupby(["problem", "trials", "rival"], sort=False)["recommended"].count().to_numpy()
    means.insert(3, "studies", counted)
    gains = advantage(found) if found["rival"].nunique() > 1 else pd.DataFrame()
    text = "\n".join(
        [
            "# Samplers on planted problems",
            "",
            SCALE,
            "",
            machine,
            "",
            as_markdown(means),
            "",
            as_markdown(gains),
            "",
        ]
    )
    print(text)
    if options.out:
        write_atomic(Path(f"{options.out}.md"), text)
        record = {"machine": machine, "means": means.to_dict("records"), "gains": gains.to_dict("records")}
        write_atomic(Path(f"{options.out}.json"), json.dumps(record, indent=1) + "\n")


def run(options: argparse.Namespace) -> pd.DataFrame:
    """Every rival on every problem; rivals alternate, so that a busy machine slows all alike."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    rows: list[dict[str, object]] = []
    for problem in options.problems:
        for seed in range(options.first, options.first + options.studies):
            for rival in options.rivals:
                rows += one_study(problem, options.table, rival, options.trials, seed)
    return pd.DataFrame(rows)


def as_markdown(table: pd.DataFrame) -> str:
    """A table in Markdown, numbers with two digits."""
    cells = [
        [f"{value:.2f}" if isinstance(value, float) else str(value) for value in row]
        for row in table.to_numpy(object)
    ]
    lines = [list(map(str, table.columns)), ["---"] * table.shape[1], *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
