"""A training of one's own under random kills: each run has one result, that of an undisturbed study.

REBORN_NAS_KILLS=200 python -m pytest -m slow tests/study/test_own_kills.py     # more than the suite's 12
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from optuna.trial import TrialState

from reborn_nas.study import StudyConfig, load_records
from reborn_nas.study.search import prepare_run, run_search
from reborn_nas.study.setup.planning import plan_search
from reborn_nas.study.store.attempts import Attempts, count_losses
from reborn_nas.study.store.queue import MOST_LOSSES
from reborn_nas.study.store.storage import find_store
from reborn_nas.study.worker.loop import run_worker
from reborn_nas.study.worker.progress import SilentProgress
from reborn_nas.study.worker.stop import Stopper
from tests.study.own_task import SOURCE, configured

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("short_lease"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
]

KILLS = int(os.environ.get("REBORN_NAS_KILLS", "12"))
WORKERS = 3
LONGEST = 120.0
"""Seconds without a kill after which a study counts as hanging."""

COUNTS = {
    "baseline": 4,
    "screen": 16,
    "exploration": 0,
    "candidate": 4,
    "retest": 16,
    "control": 0,
    "checks": 0,
}

TRAIN = """
def train(model, job):
    import random, time
    state = job.load() or {"epoch": 0, "model": model.state_dict(), "drawn": 0.0}
    model.load_state_dict(state["model"])
    drawn = state["drawn"]
    for epoch in range(state["epoch"] + 1, job.epochs + 1):
        with torch.no_grad():
            model.head.bias += 1.0
        drawn += float(torch.rand((), generator=torch.Generator().manual_seed(job.seed % 2**31 + epoch)))
        time.sleep(0.02)
        job.save(epoch=epoch, model=model.state_dict(), drawn=drawn)
        job.report(epoch=epoch, drawn=drawn)
    model.drawn = drawn


def evaluate(model, job):
    return {"rmse": formula(model, job) + model.drawn, "bias": float(model.head.bias.detach())}
"""


def told(config: StudyConfig) -> dict[str, tuple[float | None, float]]:
    """Key → value, and what the bias came to: three epochs, not two and not four."""
    records = load_records(config.folder)
    assert len({record.key for record in records}) == len(records)
    assert {record.state for record in records} <= {"complete"}, [record.reason for record in records]
    return {record.key: (record.accuracy, round(record.extra["bias"], 5)) for record in records}


def spared(config: StudyConfig) -> set[int]:
    """Pids of workers that hold a run which lost nearly as many as make it count as what kills them.

    How often a run is killed depends on how slow the machine is; five times in a row without an epoch are the end.
    """
    store = find_store(config, patience=60)
    assert store is not None
    found = set()
    for study in store.studies():
        attempts = Attempts(store.void())
        attempts.renew(study.get_trials(deepcopy=False))
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if count_losses(attempts.attempts(trial.user_attrs["key"])) >= MOST_LOSSES - 2:
                found.add(trial.user_attrs.get("lease", {}).get("pid"))
    return found


def work(config: StudyConfig) -> None:
    with Stopper() as stopper:
        os._exit(0 if run_worker(config, "cpu", SilentProgress(), stopper, lead=True) else 1)


def start(config: StudyConfig) -> BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=work, args=(config,), daemon=True)
    process.start()
    return process


def disturb(config: StudyConfig, truth: dict[str, tuple[float | None, float]], left: int, seed: int) -> int:
    """One study to its end with up to `left` kills; how many there were."""
    chance, kills, before = random.Random(seed), 0, {}
    prepare_run(plan_search(config))
    workers = [start(config) for _ in range(WORKERS)]
    until = time.monotonic() + LONGEST
    try:
        while any(worker.exitcode != 0 for worker in workers):
            assert time.monotonic() < until, "the study does not end"
            time.sleep(chance.uniform(0.1, 0.6))
            place = chance.randrange(WORKERS)
            if kills < left and workers[place].is_alive() and workers[place].pid not in spared(config):
                os.kill(workers[place].pid or 0, signal.SIGKILL)
                workers[place].join()
                kills += 1
                until = time.monotonic() + LONGEST
                now = told(config)
                assert before.items() <= now.items() <= truth.items()
                before = now
            workers = [
                worker if worker.is_alive() or worker.exitcode == 0 else start(config) for worker in workers
            ]
    finally:
        for worker in workers:
            worker.kill()
    assert told(config) == truth
    return kills


def test_kills_lose_nothing(tmp_path: Path) -> None:
    source = SOURCE.split("def train")[0] + TRAIN.lstrip()
    calm = configured(tmp_path, source, epochs=3, run=tmp_path / "calm", name="own", threads=1, **COUNTS)
    run_search(calm)
    truth = told(calm)
    assert len(truth) == sum(COUNTS.values())
    kills = number = 0
    while kills < KILLS:
        config = configured(
            tmp_path, source, epochs=3, run=tmp_path / str(number), name="own", threads=1, **COUNTS
        )
        kills += disturb(config, truth, KILLS - kills, seed=number)
        number += 1
        assert number < KILLS, "nobody is there to be killed"
    print(f"{kills} kills in {number} studies")
