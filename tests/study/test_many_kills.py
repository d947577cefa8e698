"""Hundreds of random kills over workers, supervisors and the database, with the invariants looked at after each.

REBORN_NAS_KILLS=1000 python -m pytest -m slow tests/study/test_many_kills.py     # more than the suite's 200
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from reborn_nas.study.plan.designs import Run
from tests.study import postgresql
from tests.study.forked import fork, supervise
from tests.study.toy import results, told

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("short_lease"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
]

KILLS = int(os.environ.get("REBORN_NAS_KILLS", "200"))
LONGEST = 60.0
"""Seconds that a study of 48 short runs may take however it is disturbed: a lease ends after 45."""


def workers_of(folder: Path) -> list[int]:
    """Pids of workers that live, orphans included."""
    found = []
    for path in folder.glob("*.pid"):
        try:
            state = Path(f"/proc/{path.stem}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            state = "X"
        if state in "ZX":
            path.unlink()
        else:
            found.append(int(path.stem))
    return found


class Chaos:
    """Kills at random until `left` is used up; after each, what was told is still there, once, and as it must be."""

    def __init__(
        self, kills: int, truth: dict[str, float], seed: int, server: postgresql.Server | None
    ) -> None:
        self.left, self.truth, self.server = kills, truth, server
        self.chance = random.Random(seed)
        self.killed = {"worker": 0, "supervisor": 0, "database": 0}

    def disturb(self, folder: Path, storage: str | None) -> None:
        """One study from its begin to its end."""
        before: dict[str, float] = {}
        supervisor = begin(folder, storage)
        until = time.monotonic() + LONGEST
        while supervisor.is_alive() or supervisor.exitcode:
            assert time.monotonic() < until, "the study does not end"
            time.sleep(self.chance.uniform(0.02, 0.3))
            if self.left <= 0 or not self.kill(folder, supervisor):
                if not supervisor.is_alive() and supervisor.exitcode:
                    supervisor = begin(folder, storage)  # the same command
                continue
            self.left -= 1
            until = time.monotonic() + LONGEST
            now = told(folder, storage)
            assert before.items() <= now.items(), "a told result was lost"
            assert now.items() <= self.truth.items(), "a result differs from the undisturbed study's"
            before = now
        assert results(folder, storage) == self.truth  # fails where a trial was left RUNNING

    def kill(self, folder: Path, supervisor: BaseProcess) -> bool:
        """Kill one of those that live; whether there was one."""
        kinds = ["worker", "worker", "supervisor", *(["database"] if self.server else [])]
        kind = self.chance.choice(kinds)
        if kind == "database":
            assert self.server is not None
            self.server.kill()
            time.sleep(self.chance.uniform(0, 0.3))
            self.server.start()
        else:
            pids = workers_of(folder) if kind == "worker" else [supervisor.pid] * supervisor.is_alive()
            if not pids:
                return False
            os.kill(self.chance.choice(pids) or 0, signal.SIGKILL)
            if kind == "supervisor":
                supervisor.join()
        self.killed[kind] += 1
        return True


def begin(folder: Path, storage: str | None) -> BaseProcess:
    process = fork.Process(target=supervise, args=(folder, storage, take_a_while))
    process.start()
    return process


def take_a_while(run: Run, number: int) -> None:
    time.sleep(random.uniform(0.02, 0.06))


@contextmanager
def no_process_left(folder: Path) -> Iterator[None]:
    """Whatever a failed test leaves behind ends with it."""
    try:
        yield
    finally:
        for child in multiprocessing.active_children():
            child.kill()
        for path in folder.rglob("*.pid"):
            for pid in workers_of(path.parent):
                os.kill(pid, signal.SIGKILL)


def sweep(chaos: Chaos, tmp_path: Path, storage: Callable[[int], str | None]) -> None:
    with no_process_left(tmp_path):
        number = 0
        while chaos.left > 0:
            folder = tmp_path / str(number)
            folder.mkdir()
            chaos.disturb(folder, storage(number))
            number += 1
    print(f"{sum(chaos.killed.values())} kills in {number} studies: {chaos.killed}")


def test_kills_on_a_journal(tmp_path: Path, undisturbed: dict[str, float]) -> None:
    sweep(Chaos(KILLS - KILLS // 3, undisturbed, 1, None), tmp_path, lambda number: None)


def test_kills_on_postgresql(
    tmp_path: Path, undisturbed: dict[str, float], server: postgresql.Server
) -> None:
    import psycopg2

    def database(number: int) -> str:
        connection = psycopg2.connect(server.url)
        connection.autocommit = True
        connection.cursor().execute(f"CREATE DATABASE study{number}")
        connection.close()
        return server.url.replace("/postgres", f"/study{number}")

    sweep(Chaos(KILLS // 3, undisturbed, 2, server), tmp_path, database)
