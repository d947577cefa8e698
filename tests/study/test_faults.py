"""What befalls a study beside killed workers: full disks, cut networks, wrong clocks, power cuts."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime as true_datetime
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from reborn_nas.files import write_atomic
from reborn_nas.records import TrialRecord
from reborn_nas.study.config.urls import run_url
from reborn_nas.study.plan.designs import Run
from reborn_nas.study.store import attempts
from reborn_nas.study.store.reading import read_records
from reborn_nas.study.store.storage import connect, open_run
from reborn_nas.study.worker import loop
from reborn_nas.study.worker.loop import Worker
from reborn_nas.study.worker.progress import SilentProgress
from reborn_nas.study.worker.stop import Stopper
from tests.study.conftest import FakeObjective, make_bench
from tests.study.toy import SITES, phases, results, start, store_of, told, work

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.usefixtures("short_lease"),
]


def wait_until_told(folder: Path, storage: str | None, count: int) -> None:
    """Until the study holds `count` results, and has more to come however fast the machine is."""
    until = time.monotonic() + 120
    while (found := len(told(folder, storage))) < count:
        assert time.monotonic() < until, f"{found} results"
        time.sleep(0.02)


def stopped_in_a_training(pid: int, folder: Path, tally: Path) -> set[str]:
    """Stop the process; what it trains at this moment. It continues if it is not training, or writes to the journal."""
    import fcntl

    os.kill(pid, signal.SIGSTOP)
    time.sleep(0.05)
    last = tally.read_text().split()[-1:]
    studies = store_of(folder, None).studies()
    trials = [trial for study in studies for trial in study.get_trials(deepcopy=False)]
    held = {trial.user_attrs["key"] for trial in trials if trial.state.name == "RUNNING"} & set(last)
    with open(folder / "study.journal", "rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held = set()
    if not held:
        os.kill(pid, signal.SIGCONT)
    return held


# -- clocks ---------------------------------------------------------------------------------------------------


DAY = 86400.0


def work_with_clock(folder: Path, shift: Callable[[], float], zone: str = "UTC") -> None:
    """A worker whose wall clock is off by `shift` seconds wherever Optuna and we read it, in another time zone."""

    class Wrong(true_datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return true_datetime.now(tz) + timedelta(seconds=shift())

    os.environ["TZ"] = zone
    time.tzset()
    clock = time.time
    time.time = lambda: clock() + shift()  # type: ignore[assignment]
    for name, module in list(sys.modules.items()):
        if name.startswith(("optuna", "reborn_nas")) and getattr(module, "datetime", None) is true_datetime:
            module.datetime = Wrong  # type: ignore[attr-defined]
    work(folder, None)


def test_clocks_that_are_days_apart_and_jump_change_nothing(
    folder: Path, undisturbed: dict[str, float]
) -> None:
    jumps = random.Random(0)
    context = multiprocessing.get_context("fork")
    workers = [
        context.Process(target=work_with_clock, args=(folder, *wrong), daemon=True)
        for wrong in (
            (lambda: -2 * DAY, "Pacific/Auckland"),
            (lambda: jumps.choice((-DAY, 0.0, DAY)), "America/Los_Angeles"),
            (lambda: 40 * DAY,),
        )
    ]
    for worker in workers:
        worker.start()
    wait_until_told(folder, None, 8)
    assert workers[2].pid is not None
    os.kill(workers[2].pid, signal.SIGKILL)
    for worker in workers[:2]:
        worker.join(240)
        assert worker.exitcode == 0
    assert results(folder, None) == undisturbed


# -- power cuts -----------------------------------------------------------------------------------------------


class Disk:
    """The order in which files are written, made durable and renamed."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.events: list[tuple[str, str]] = []
        self.durable: dict[str, int] = {}
        replace = os.replace

        def fsync(handle: int) -> None:
            path = os.readlink(f"/proc/self/fd/{handle}")
            self.events.append(("fsync", path))
            self.durable[path] = os.fstat(handle).st_size

        def renamed(old: Any, new: Any) -> None:
            self.events.append(("replace", str(new)))
            self.durable[str(new)] = self.durable.get(str(old), 0)
            replace(old, new)

        patch.setattr("os.fsync", fsync)
        patch.setattr("os.replace", renamed)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_files_are_on_the_disk_before_they_have_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    write_atomic(tmp_path / "one.json", "text")
    write_atomic(tmp_path / "two.safetensors", b"weights")
    for index, name in enumerate(("one.json", "two.safetensors")):
        first, second, third = disk.events[3 * index : 3 * index + 3]
        assert first[0] == "fsync"
        assert second == ("replace", str(tmp_path / name))
        assert third == ("fsync", str(tmp_path))
        assert disk.durable[str(tmp_path / name)] == (tmp_path / name).stat().st_size > 0


class PowerCuts(SilentProgress):
    """After each told result: how much of the journal is sure to be on the disk, and what was told by then."""

    def __init__(self, disk: Disk, journal: Path) -> None:
        self.disk, self.journal = disk, journal
        self.cuts: list[tuple[int, dict[str, float | None]]] = []
        self.told: dict[str, float | None] = {}

    def trial_finished(self, record: TrialRecord, done: int, total: int) -> None:
        self.told[record.key] = record.accuracy
        self.cuts.append((self.disk.durable.get(str(self.journal), 0), dict(self.told)))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_a_power_cut_takes_no_told_result(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, float]
) -> None:
    journal = folder / "study.journal"
    disk = Disk(monkeypatch)
    cuts = PowerCuts(disk, journal)
    context = make_bench(folder, sites=SITES)
    with Stopper() as stopper:
        engine = Worker(context, store_of(folder, None), phases(), FakeObjective(), cuts, stopper)
        assert engine.work(lead=True)
    content = journal.read_bytes()
    chance = random.Random(0)
    assert len(cuts.cuts) == len(undisturbed)
    for durable, sure in cuts.cuts[::7]:
        after = tmp_path / f"cut-{durable}"
        after.mkdir()
        torn = content[
            durable : durable + chance.randrange(200)
        ]  # what else reached the disk: any part of it
        (after / "study.journal").write_bytes(content[:durable] + torn)
        kept = {record.key: record.accuracy for record in read_records(store_of(after, None))}
        assert {key: kept.get(key) for key in sure} == sure
    with Stopper() as stopper:
        again = Worker(
            make_bench(after, sites=SITES), store_of(after, None), phases(), FakeObjective(), cuts, stopper
        )
        assert again.work(lead=True)
    assert results(after, None) == undisturbed


# -- full disks -----------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    done = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=1m", "none", place], capture_output=True
    )
    if not done or done.returncode:
        pytest.skip("a small disk can be mounted by root only")
    yield place
    subprocess.run(["umount", "-l", place], check=False)


def test_a_disk_that_fills_up_only_takes_time(small_disk: Path, undisturbed: dict[str, float]) -> None:
    ballast = small_disk / "ballast"
    store_of(small_disk, None)
    processes = [start(small_disk, None) for _ in range(2)]
    wait_until_told(small_disk, None, 4)
    with open(ballast, "wb", buffering=0) as stream, pytest.raises(OSError, match="No space"):  # noqa: PT012
        while True:
            stream.write(bytes(4096))
    time.sleep(1.5)
    journal = (small_disk / "study.journal").read_bytes()
    assert any(process.is_alive() for process in processes), "the study ended before the disk was full"
    assert journal.endswith(b"\n"), "a write that found no room must leave no part of a line"
    ballast.unlink()
    for process in processes:
        process.join(240)
        assert process.exitcode == 0
    assert results(small_disk, None) == undisturbed


# -- processes that stop or die -------------------------------------------------------------------------------


def work_as_another_machine(folder: Path, tally: Path, seconds: float = 1.0) -> None:
    """A worker that no other sees as a process; it takes leases away after `seconds`. `tally` gets what it trains."""

    def note(run: Run, number: int) -> None:
        with open(tally, "a") as stream:
            stream.write(f"{run.key}\n")
        time.sleep(0.03)

    attempts._host = lambda: tally.name  # type: ignore[assignment]
    loop.BEAT = 0.2
    objective = FakeObjective(before=note)
    with Stopper() as stopper:
        context = make_bench(folder, sites=SITES)
        worker = Worker(context, store_of(folder, None), phases(), objective, SilentProgress(), stopper)
        worker.queue.watch = attempts.LeaseWatch(seconds)
        os._exit(0 if worker.work(lead=True) else 1)


@pytest.mark.slow
def test_a_worker_that_is_stopped_loses_its_lease_and_its_result_is_refused(
    folder: Path, tmp_path: Path, undisturbed: dict[str, float]
) -> None:
    """Of two machines one stops in the middle of a training: the other trains that run too, and one result is told."""
    context = multiprocessing.get_context("fork")
    tallies = [tmp_path / "one", tmp_path / "two"]
    one, two = (
        context.Process(target=work_as_another_machine, args=(folder, tally), daemon=True)
        for tally in tallies
    )
    one.start()
    wait_until_told(folder, None, 6)
    assert one.pid is not None
    while not (held := stopped_in_a_training(one.pid, folder, tallies[0])):
        time.sleep(0.01)
    two.start()
    until = time.monotonic() + 240
    while not held <= told(folder, None).keys():
        assert time.monotonic() < until, "nobody took the lease"
        time.sleep(0.1)
    os.kill(one.pid, signal.SIGCONT)
    for process in (one, two):
        process.join(240)
        assert process.exitcode == 0
    assert results(folder, None) == undisturbed
    trained = [tally.read_text().split() for tally in tallies]
    assert all(held <= set(keys) for keys in trained), "both trained it, and one result was refused"


@pytest.mark.slow
def test_a_worker_that_is_stopped_for_a_moment_is_waited_for(
    folder: Path, undisturbed: dict[str, float]
) -> None:
    """Its run waits for it as long as a lease lasts, and is trained once."""
    processes = [start(folder, None) for _ in range(2)]
    wait_until_told(folder, None, 6)
    assert processes[0].pid is not None
    os.kill(processes[0].pid, signal.SIGSTOP)
    time.sleep(2)
    os.kill(processes[0].pid, signal.SIGCONT)
    for process in processes:
        process.join(240)
        assert process.exitcode == 0
    assert results(folder, None) == undisturbed


@pytest.mark.slow
def test_all_processes_killed_at_once(folder: Path, undisturbed: dict[str, float]) -> None:
    for count in (4, 12, 24):
        processes = [start(folder, None) for _ in range(3)]
        wait_until_told(folder, None, count)
        for process in processes:
            process.kill()
        for process in processes:
            process.join()
    last = start(folder, None)
    last.join(240)
    assert last.exitcode == 0
    assert results(folder, None) == undisturbed


# -- reading a running study ----------------------------------------------------------------------------


def test_looking_while_it_goes_on_disturbs_nothing(folder: Path, undisturbed: dict[str, float]) -> None:
    processes = [start(folder, None) for _ in range(2)]
    wait_until_told(folder, None, 1)
    seen = [
        len(read_records(open_run(connect(run_url(folder, None), read_only=True, results_only=True), "toy")))
        for _ in range(20)
    ]
    assert seen == sorted(seen)
    for process in processes:
        process.join(240)
        assert process.exitcode == 0
    assert results(folder, None) == undisturbed
