"""Trainings that take their worker down: the study ends all the same, and says which they were and why."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from reborn_nas.study.plan.designs import Run
from reborn_nas.study.store.reading import read_records
from tests.study.forked import fork, supervise
from tests.study.toy import store_of

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

DEADLY, ONCE = "screen/3", "screen/5"


def segfault() -> None:
    faulthandler.disable()  # pytest's, which would tell at length
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.string_at(0)


def out_of_memory() -> None:
    os.kill(os.getpid(), signal.SIGKILL)  # what the kernel's killer sends


@pytest.mark.parametrize("die", [segfault, out_of_memory])
def test_a_training_that_takes_its_worker_down(folder: Path, die: Callable[[], None]) -> None:
    deaths = folder / "deaths"

    def before(run: Run, number: int) -> None:
        if run.key == DEADLY or (run.key == ONCE and not deaths.exists()):
            with open(deaths, "a") as stream:
                stream.write(f"{run.key}\n")
            die()

    process = fork.Process(target=supervise, args=(folder, None, before))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    records = {record.key: record for record in read_records(store_of(folder, None))}
    assert records[DEADLY].state == "failed"
    assert "worker died 5 times" in records[DEADLY].reason
    assert records[ONCE].state == "complete"
    assert {record.state for key, record in records.items() if key != DEADLY} == {"complete"}
    assert deaths.read_text().split().count(DEADLY) == 5
