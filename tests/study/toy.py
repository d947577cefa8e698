"""A study of 48 runs of some 15 ms by a formula, worked at by processes that may be killed; what its storage holds."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

from reborn_nas.analysis import screen_sizes
from reborn_nas.study.config.urls import run_url
from reborn_nas.study.plan.designs import Run
from reborn_nas.study.plan.phases import Phase, plan_phases
from reborn_nas.study.store.storage import RunStore, connect, open_run
from reborn_nas.study.worker.loop import Worker
from reborn_nas.study.worker.progress import SilentProgress
from reborn_nas.study.worker.stop import Stopper
from tests.study.conftest import FakeObjective, make_bench

SITES = 3


def phases() -> tuple[Phase, ...]:
    return plan_phases(48, SITES, sizes=screen_sizes(SITES, 48), counts={"search": 0})


def store_of(folder: Path, storage: str | None) -> RunStore:
    return open_run(connect(run_url(folder, storage), patience=600), "toy", create=True)


def slow(run: Run, number: int) -> None:
    time.sleep(0.005 + 0.02 * random.random())


def work(folder: Path, storage: str | None) -> None:
    """One worker that also leads, in a separate process."""
    objective = FakeObjective(before=slow)
    with Stopper() as stopper:
        context = make_bench(folder, sites=SITES)
        engine = Worker(context, store_of(folder, storage), phases(), objective, SilentProgress(), stopper)
        os._exit(0 if engine.work(lead=True) else 1)


def start(folder: Path, storage: str | None) -> BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=work, args=(folder, storage), daemon=True)
    process.start()
    return process


def results(folder: Path, storage: str | None) -> dict[str, float]:
    """`told`; fails where an attempt was left open."""
    for study in store_of(folder, storage).studies():
        for trial in study.get_trials():
            assert trial.state.is_finished(), (trial.state, trial.user_attrs)
    return told(folder, storage)


def told(folder: Path, storage: str | None) -> dict[str, float]:
    """Key → accuracy of every result; fails where a run has two."""
    found: dict[str, float] = {}
    store = store_of(folder, storage)
    for study in store.studies():
        for trial in study.get_trials(deepcopy=False):
            if trial.state.is_finished() and "record" in trial.user_attrs:
                record = trial.user_attrs["record"]
                assert record["key"] not in found, "a result was counted twice"
                found[record["key"]] = record["score"]
    if storage is not None:  # a server takes a hundred connections
        store.storage._backend.engine.dispose()  # type: ignore[attr-defined]
    return found
