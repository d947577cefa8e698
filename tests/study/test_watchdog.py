"""Trainings that hang are ended: in Python by an exception, in native code with their process."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from reborn_nas.study.config.config import StudyConfig
from reborn_nas.study.plan.designs import Run
from reborn_nas.study.plan.phases import Phase
from reborn_nas.study.store.reading import read_records
from reborn_nas.study.worker import stop
from reborn_nas.study.worker.loop import Worker
from reborn_nas.study.worker.progress import SilentProgress
from reborn_nas.study.worker.stop import EXIT_CODE, HungError, Pace, Stopper, Watchdog
from tests.study.conftest import FakeObjective, make_bench
from tests.study.test_engine import plan, store_of

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="needs signals")

LONG = 120.0
"""Seconds that no test takes, however busy the machine is, unless what it tests is broken."""


def test_a_loop_without_end_is_interrupted() -> None:
    until = time.monotonic() + LONG
    with pytest.raises(HungError, match="no epoch ended for 0 s"), Watchdog(lambda: 0.2, None):  # noqa: PT012
        while time.monotonic() < until:
            pass


def test_epochs_keep_it_quiet_and_without_a_limit_it_only_looks() -> None:
    began = time.monotonic()
    with Watchdog(lambda: LONG, None) as dog:
        time.sleep(0.1)
        assert dog.moved() > 0.05
        before = time.monotonic() - began
        time.sleep(0.05)
        assert dog.moved() <= time.monotonic() - began - before + 0.05, "counted from the last epoch"
    with Watchdog(lambda: None, None):
        time.sleep(0.1)


def test_native_code_takes_its_process_along() -> None:
    said: list[str] = []
    left: list[int] = []
    with Watchdog(lambda: 0.2, said.append, grace=0.2, leave=left.append):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})  # as deaf as a loop in C
        until = time.monotonic() + LONG
        while not left and time.monotonic() < until:
            time.sleep(0.05)
        before = signal.signal(signal.SIGALRM, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
        signal.signal(signal.SIGALRM, before)
    assert left == [EXIT_CODE]
    assert "could not be interrupted" in said[0]


def test_the_limit_follows_the_longest_epoch() -> None:
    phases = (Phase("baseline", 4, seconds=400.0), Phase("screen", 0))
    pace = Pace(StudyConfig(workers=2), phases, epochs=10)
    assert pace.limit() == 900.0  # 100 s a training, 2 workers: 20 s an epoch
    pace.epoch(100.0)
    assert pace.limit() == 3000.0
    pace.epoch(1.0)
    assert pace.limit() == 3000.0
    assert Pace(StudyConfig(), (), 10).limit() is None
    assert Pace(StudyConfig(hang_after="2m"), phases, 10).limit() == 120.0


def deaf(run: Run, number: int) -> None:
    if run.key == "baseline/reborn/0":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
        time.sleep(60)


def work(folder: Path) -> None:
    stop.GRACE = 0.2
    context = make_bench(folder, sites=3, hang_after=0.5)
    phases = plan(context, 8, baseline=4, screen=0, candidate=0)
    with Stopper() as stopper:
        objective = FakeObjective(before=deaf)
        engine = Worker(
            context, store_of(context), phases, objective, SilentProgress(), stopper, expendable=True
        )
        os._exit(0 if engine.work(lead=True) else 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_run_that_hangs_is_told_as_failed_and_the_next_process_continues(folder: Path) -> None:
    codes = []
    for _ in range(2):
        process = multiprocessing.get_context("fork").Process(target=work, args=(folder,))
        process.start()
        process.join(60)
        codes.append(process.exitcode)
    assert codes == [EXIT_CODE, 0]
    records = {record.key: record for record in read_records(store_of(make_bench(folder, sites=3)))}
    assert len(records) == 8
    failed = [record for record in records.values() if record.state != "complete"]
    assert [record.key for record in failed] == ["baseline/reborn/0"]
    assert failed[0].reason.startswith("HungError: no epoch ended")
    assert failed[0].architecture


def test_a_process_that_is_not_to_be_ended_says_how_to_end_it(caplog: pytest.LogCaptureFixture) -> None:
    """Native code that no signal interrupts, in a search of one process: its user would wait for ever."""
    left: list[int] = []
    with Watchdog(lambda: 0.05, None, grace=0.05, leave=left.append):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
        try:
            until = time.monotonic() + 60
            while not caplog.records and time.monotonic() < until:
                time.sleep(0.02)
        finally:
            with contextlib.suppress(HungError):
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    assert f"end this process (`kill -9 {os.getpid()}`), and run the same command to continue" in caplog.text
    assert left == []
