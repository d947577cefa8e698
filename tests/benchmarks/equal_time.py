"""Samplers on real trainings at equal total training time: test accuracy of the network that each recommends.

Each sampler proposes networks for scikit-learn's digits until its trainings have taken so many CPU seconds. What it
recommends (the maximiser of the posterior mean; and, beside it, the trial with the best observed accuracy) is then
trained afresh on training and validation images with seeds of its own, and judged by the test images, which nothing
else reads. A difference is over paired searches: the same seed has the same trainings' seeds.

    python -m tests.benchmarks.equal_time --json FILE [--seeds 5 --seconds 40 --finals 8]

or in pieces, `--first 0 --seeds 1 --json a.json` and so on, put together by `--merge *.json --json FILE`.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import torch

from reborn_nas.analysis.model.recommend import recommend
from reborn_nas.backbone import build, discover, resolve
from reborn_nas.data import load_dataset
from reborn_nas.errors import DivergedError
from reborn_nas.files import write_atomic
from reborn_nas.seeds import derive_seed
from reborn_nas.space import load_space
from reborn_nas.study import make_sampler
from tests.benchmarks.fidelity import train_once
from tests.benchmarks.harness import hardware, paired, print_table

SAMPLERS = ("additive", "tpe", "random")
WAYS = ("recommended", "best observed")
CHANCE = 0.1


class Bench:
    """The network, its sites and choices, the images and the recipe."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.images = load_dataset("digits")
        self.spec = resolve(
            options.backbone,
            input_size=self.images.input_size,
            num_classes=len(self.images.classes),
            arguments={"width": options.width},
        )
        sites = discover(build(self.spec, device="meta"), self.spec.input_size).sites
        self.choices = load_space(options.space).parameters(sites)
        self.stages = {site.name: site.stage for site in sites}
        self._epochs, self._rate = options.epochs, options.learning_rate

    def train(self, choices: dict[str, str], seed: int, *, final: bool = False) -> tuple[float, float]:
        """Accuracy and CPU seconds of one training; chance where it diverges."""
        began = time.process_time()
        try:
            accuracy, seconds, _ = train_once(
                self.spec,
                choices,
                self.images,
                epochs=self._epochs,
                seed=seed,
                learning_rate=self._rate,
                final=final,
            )
        except DivergedError:
            return CHANCE, time.process_time() - began
        return accuracy, seconds


def one_search(
    context: Bench, sampler: str, budget: float, seed: int
) -> tuple[dict[str, dict[str, str]], int]:
    """Way of choosing → network, after trainings of `budget` CPU seconds; and how many trainings these were."""
    study = optuna.create_study(
        direction="maximize", sampler=make_sampler(sampler, seed, stages=context.stages)
    )
    trials: list[dict[str, str]] = []
    values: list[float] = []
    spent = 0.0
    while spent < budget:
        trial = study.ask()
        chosen = {name: trial.suggest_categorical(name, labels) for name, labels in context.choices.items()}
        accuracy, seconds = context.train(chosen, derive_seed(seed, "search", str(len(trials))) % 2**31)
        study.tell(trial, accuracy)
        trials.append(chosen)
        values.append(accuracy)
        spent += seconds
    found = recommend(trials, values, choices=context.choices, stages=context.stages)
    return {
        "recommended": dict(found.choices),
        "best observed": trials[int(np.argmax(values))],
    }, len(trials)


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a seed, sampler and way of choosing; the samplers take turns, so that a busy machine slows all alike."""
    context = Bench(options)
    rows = []
    for seed in range(options.first, options.first + options.seeds):
        for sampler in SAMPLERS:
            networks, count = one_search(context, sampler, options.seconds, seed)
            for way, choices in networks.items():
                finals = [
                    context.train(choices, derive_seed(seed, "final", str(k)) % 2**31, final=True)[0]
                    for k in range(options.finals)
                ]
                rows.append(
                    {
                        "seed": seed,
                        "sampler": sampler,
                        "network": way,
                        "trainings": count,
                        "test accuracy": float(np.mean(finals)),
                        "finals": finals,
                    }
                )
    return rows


def summary(rows: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Mean ± sd over the searches of each sampler and way; and additive, recommended, less each of the others."""
    frame = pd.DataFrame(list(rows))
    wide = frame.pivot(index="seed", columns=["sampler", "network"], values="test accuracy")
    trainings = frame.groupby("sampler")["trainings"].mean()
    means = [
        {
            "sampler": sampler,
            "network": way,
            "searches": len(column),
            "trainings a search": round(float(trainings[sampler]), 1),
            "test accuracy, %": round(100 * float(column.mean()), 2),
            "sd": round(100 * float(column.std(ddof=1)), 2),
        }
        for (sampler, way), column in wide.items()
    ]
    gains = []
    for name, column in wide.items():
        if name == ("additive", "recommended"):
            continue
        gap = 100 * (wide["additive", "recommended"] - column)
        mean, low, high = paired(gap, 2)
        against = ", ".join(name)
        gains.append({"additive, recommended, less": against, "points": mean, "ci_low": low, "ci_high": high})
    return means, gains


def main() -> None:
    """Measure and print, with `--json` write it too."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").strip(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="convnet13")
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--space", default="paper")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=0.02)
    parser.add_argument("--first", type=int, default=0, help="seed of the first search")
    parser.add_argument("--seeds", type=int, default=5, help="searches of each sampler")
    parser.add_argument("--seconds", type=float, default=40.0, help="CPU seconds of training a search")
    parser.add_argument("--finals", type=int, default=8, help="trainings of each network that is judged")
    parser.add_argument(
        "--merge", nargs="+", type=Path, metavar="JSON", help="train nothing: put these together"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    settings = {
        key: value for key, value in vars(options).items() if key not in ("json", "merge", "first", "seeds")
    }
    if options.merge:
        pieces = [json.loads(path.read_text()) for path in options.merge]
        if any(piece["settings"] != pieces[0]["settings"] for piece in pieces):
            parser.error("the pieces have different settings")
        rows, settings = [row for piece in pieces for row in piece["rows"]], pieces[0]["settings"]
    else:
        rows = measure(options)
    record = {"benchmark": "equal_time", "hardware": hardware(), "data": "digits", "settings": settings}
    if len({row["seed"] for row in rows}) > 1:
        means, gains = summary(rows)
        print_table(means, "networks")
        print_table(gains, "differences in percentage points, with 95 % intervals over paired searches")
        record |= {"means": means, "gains": gains}
    if options.json:
        write_atomic(options.json, json.dumps({**record, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
