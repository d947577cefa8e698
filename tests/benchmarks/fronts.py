"""Samplers for two objectives on planted problems: the volume that the true front of what they tried dominates.

Accuracy is that of `plant_problem` (33 sites, 9 choices, neighbours and noise), the cost adds up over the sites as a
reborn block's parameters do. The front is of the true values of all networks that a sampler proposed, its volume above
a reference of −2 sd and of the costliest network, the additive sampler's by random scalarisation.

    python -m tests.benchmarks.fronts --json FILE [--studies 20 --trials 50 100]
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd

from reborn_nas.analysis.model.pareto import hypervolume
from reborn_nas.analysis.simulated.surrogate import plant_problem
from reborn_nas.files import write_atomic
from reborn_nas.study import make_sampler
from tests.benchmarks.harness import hardware, paired, print_table

RIVALS = ("additive", "nsga2", "tpe", "random")
COST = {"reborn(k=1)": 1.0, "reborn(k=3)": 2.0, "reborn(k=5)": 3.0, "crelu": 0.5, "prelu": 0.01}
"""Of one choice, in parts of what a network of nothing but 5 × 5 reborn blocks adds; nothing for those not named."""


def one_study(rival: str, checkpoints: Sequence[int], seed: int) -> list[dict[str, Any]]:
    """One rival on one planted problem: a row a checkpoint."""
    planted = plant_problem("additive", seed=seed)
    stages = {str(name): int(stage) for name, stage in (planted.space.stages or {}).items()}
    study = optuna.create_study(
        directions=["maximize", "minimize"], sampler=make_sampler(rival, seed, stages=stages)
    )
    most = len(planted.space.names) * max(COST.values())
    points, rows = [], []
    for number in range(1, max(checkpoints) + 1):
        trial = study.ask()
        assignment = planted.suggest(trial)
        cost = sum(COST.get(label, 0.0) for label in assignment.values()) / most
        study.tell(trial, (planted.observe(assignment, seed=10_000 * seed + number), cost))
        points.append((planted.value(assignment), cost))
        if number in checkpoints:
            volume = hypervolume(np.array(points), [True, False], (-2.0, 1.0))
            rows.append({"rival": rival, "trials": number, "seed": seed, "volume": volume})
    return rows


def gains(found: pd.DataFrame) -> list[dict[str, Any]]:
    """The additive sampler's volume less the best rival's, with its 95 % interval over the paired problems."""
    rows = []
    for count, part in found.groupby("trials"):
        wide = part.pivot(index="seed", columns="rival", values="volume")
        best = max(
            (rival for rival in wide.columns if rival != "additive"), key=lambda rival: wide[rival].mean()
        )
        gap = wide["additive"] - wide[best]
        mean, low, high = paired(gap, 2)
        trials = int(str(count))
        rows.append({"trials": trials, "additive less": best, "gain": mean, "ci_low": low, "ci_high": high})
    return rows


def main() -> None:
    """Measure and print, with `--json` write it too."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").strip(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=int, default=20, help="planted problems")
    parser.add_argument("--trials", type=int, nargs="+", default=[50, 100])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    found = pd.DataFrame(
        [
            row
            for seed in range(options.studies)
            for rival in RIVALS
            for row in one_study(rival, options.trials, seed)
        ]
    )
    means = (
        found.groupby(["trials", "rival"], sort=False)["volume"].agg(["mean", "std"]).round(2).reset_index()
    )
    rows = [{str(key): value for key, value in row.items()} for row in means.to_dict("records")]
    print_table(rows, "volumes")
    print_table(gains(found), "gains")
    if options.json:
        settings = {"studies": options.studies, "trials": options.trials}
        record = {
            "benchmark": "fronts",
            "hardware": hardware(),
            "settings": settings,
            "volumes": rows,
            "gains": gains(found),
        }
        write_atomic(options.json, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
