"""What the framework costs a trial of a training of one's own that does nothing, beside bare Optuna.

    python -m tests.benchmarks.own_cost --trials 1000 [--out FILE.json]

Both run the same function on networks of three sites that a random sampler proposes, in one process on one thread, each
on a journal file of its own. `study` is `rn.search`: proposal, limits, conversion, seeds, lease, record, weights, log.
`optuna` is an objective of three lines: `space.suggest`, `rn.convert`, the function. `bare` is that without the
conversion, which is what no study of networks can leave out. They take turns in parts of 100 trials, so that a busy
machine is as busy for each; figures are process CPU time and wall time a trial, of all and of the last 100.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

import reborn_nas as rn
from reborn_nas.study.search import run_search
from tests.benchmarks.harness import hardware
from tests.study.own_task import SOURCE, configured

PART = 100
TRIVIAL = (
    SOURCE.split("def train")[0] + "def train(model, job):\n    return 20.0 - model.conv1.weight.shape[0]\n"
)
NOTHING = dict.fromkeys(("baseline", "screen", "candidate", "retest", "control", "checks"), 0)


class Rivals:
    """One study each, which grows by a part when its turn comes."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._done = folder, 0
        namespace: dict[str, Any] = {}
        exec(compile(TRIVIAL, "task.py", "exec"), namespace)
        self._make, self._train, example = namespace["make"], namespace["train"], namespace["example"]()
        self._example = example
        self._space, self._sites = (
            rn.load_space("two_level"),
            rn.find_sites(self._make(), example_inputs=example),
        )
        self._studies = {
            name: optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(folder / f"{name}.journal"))),
                sampler=optuna.samplers.RandomSampler(seed=0),
            )
            for name in ("optuna", "bare")
        }

    def study(self, count: int) -> None:
        """`rn.search` up to `count` more trials; opening the study again is part of it."""
        self._done += count
        config = configured(
            self._folder, TRIVIAL, evaluate=None, sampler="random", exploration=self._done, **NOTHING
        )
        assert run_search(config).complete

    def optuna(self, count: int) -> None:
        """An objective with the conversion."""

        def objective(trial: optuna.Trial) -> float:
            architecture = self._space.suggest(trial, self._sites)
            model = rn.convert(self._make(), architecture, example_inputs=self._example)
            return float(self._train(model, None))

        self._studies["optuna"].optimize(objective, n_trials=count)

    def bare(self, count: int) -> None:
        """An objective without it."""

        def objective(trial: optuna.Trial) -> float:
            self._space.suggest(trial, self._sites)
            return float(self._train(self._make(), None))

        self._studies["bare"].optimize(objective, n_trials=count)


def measure(trials: int) -> dict[str, dict[str, float]]:
    """Milliseconds a trial, by rival."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        rivals = Rivals(Path(folder))
        spent: dict[str, list[tuple[float, float]]] = {"study": [], "optuna": [], "bare": []}
        for begun in range(0, trials, PART):
            count = min(PART, trials - begun)
            for name, times in spent.items():
                times.append(_timed(getattr(rivals, name), count))
    return {
        name: {
            "cpu_ms": 1000 * sum(cpu for cpu, _ in times) / trials,
            "wall_ms": 1000 * sum(wall for _, wall in times) / trials,
            "cpu_ms_last_part": 1000 * times[-1][0] / (trials % PART or PART),
        }
        for name, times in spent.items()
    }


def _timed(run: Callable[[int], None], count: int) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    run(count)
    return time.process_time() - cpu, time.perf_counter() - wall


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found = {"trials": given.trials, **measure(given.trials), "hardware": hardware()}
    text = json.dumps(found, indent=1)
    print(text)
    if given.out is not None:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
