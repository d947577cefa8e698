"""Workers killed at any moment: every run has one result, that of an undisturbed study, and nothing stays behind.

A few kills; `test_many_kills` has hundreds.
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

from reborn_nas.analysis import screen_sizes
from reborn_nas.study.engine import Engine
from reborn_nas.study.phases import Phase, plan_phases
from reborn_nas.study.progress import SilentProgress
from reborn_nas.study.runs import Run
from reborn_nas.study.stopping import Stopper
from reborn_nas.study.storage import RunStore, connect, open_run, run_url
from tests.study.conftest import FakeObjective, make_bench

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

SITES = 3


def phases() -> tuple[Phase, ...]:
    return plan_phases(48, SITES, sizes=screen_sizes(SITES, 48), counts={"search": 0})


def store_of(folder: Path, storage: str | None) -> RunStore:
    return open_run(connect(run_url(folder, storage), patience=60), "toy", create=True)


def slow(run: Run, number: int) -> None:
    time.sleep(0.005 + 0.02 * random.random())


def work(folder: Path, storage: str | None) -> None:
    """One worker that also leads, in a process of its own."""
    objective = FakeObjective(before=slow)
    with Stopper() as stopper:
        bench = make_bench(folder, sites=SITES)
        engine = Engine(bench, store_of(folder, storage), phases(), objective, SilentProgress(), stopper)
        os._exit(0 if engine.work(lead=True) else 1)


def start(folder: Path, storage: str | None) -> BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=work, args=(folder, storage), daemon=True)
    process.start()
    return process


def disturb(folder: Path, storage: str | None, kills: int, workers: int = 3, seed: int = 0) -> None:
    """Run to the end with `workers` processes, killing one every now and then and starting another."""
    chance = random.Random(seed)
    processes = [start(folder, storage) for _ in range(workers)]
    until = time.monotonic() + 300
    while any(process.is_alive() for process in processes):
        assert time.monotonic() < until, "the study does not end"
        time.sleep(chance.uniform(0.02, 0.15))
        if kills > 0:
            kills -= 1
            victim = chance.choice(processes)
            victim_pid = victim.pid
            if victim.is_alive() and victim_pid is not None:
                os.kill(victim_pid, signal.SIGKILL)
                victim.join()
                processes.remove(victim)
                processes.append(start(folder, storage))
    for process in processes:
        process.join()
        assert process.exitcode == 0


def results(folder: Path, storage: str | None) -> dict[str, float]:
    """Key → accuracy; fails where a run has two results or an attempt was left open."""
    found: dict[str, float] = {}
    for study in store_of(folder, storage).studies():
        for trial in study.get_trials():
            assert trial.state.is_finished(), (trial.state, trial.user_attrs)
            record = trial.user_attrs.get("record")
            if record is not None:
                assert record["key"] not in found
                found[record["key"]] = record["accuracy"]
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    folder = tmp_path_factory.mktemp("undisturbed")
    process = start(folder, None)
    process.join(120)
    assert process.exitcode == 0
    return results(folder, None)


def test_kills_of_workers_on_a_journal(folder: Path, undisturbed: dict[str, float]) -> None:
    disturb(folder, None, kills=12)
    assert results(folder, None) == undisturbed
    assert len(undisturbed) == sum(phase.count for phase in phases())


def test_order_and_number_of_workers_change_nothing(folder: Path, undisturbed: dict[str, float]) -> None:
    disturb(folder, None, kills=0, workers=5)
    assert results(folder, None) == undisturbed
