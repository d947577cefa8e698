"""Workers killed at any moment: every run has one result, that of an undisturbed study, and nothing stays behind.

A few kills; `test_many_kills` has hundreds.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.study.toy import phases, results, start

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


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


def test_kills_of_workers_on_a_journal(folder: Path, undisturbed: dict[str, float]) -> None:
    disturb(folder, None, kills=12)
    assert results(folder, None) == undisturbed
    assert len(undisturbed) == sum(phase.count for phase in phases())


def test_order_and_number_of_workers_change_nothing(folder: Path, undisturbed: dict[str, float]) -> None:
    disturb(folder, None, kills=0, workers=5)
    assert results(folder, None) == undisturbed
