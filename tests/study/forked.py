"""The supervisor in a process of its own, with workers that are forked, which is quick, and train by a formula."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from reborn_nas.study.plan.designs import Run
from reborn_nas.study.setup.planning import PlanView
from reborn_nas.study.worker.loop import Worker
from reborn_nas.study.worker.pool import PipeProgress, _Supervisor
from reborn_nas.study.worker.progress import SilentProgress
from reborn_nas.study.worker.stop import Stopper
from tests.study.conftest import FakeObjective, make_bench
from tests.study.toy import SITES, phases, store_of

WORKERS = 3
Before = Callable[[Run, int], None]
"""Called with a run, and its number in its worker, when its training begins."""

fork = multiprocessing.get_context("fork")


class Forking(_Supervisor):
    """The supervisor itself; only its workers are others."""

    folder: Path
    storage: str | None
    before: Before

    def _start(self, slot: int) -> None:
        ours, theirs = fork.Pipe(duplex=False)
        arguments = (self.folder, self.storage, self.before, theirs, os.getpid())
        process = fork.Process(target=_work, args=arguments, name=f"worker {slot}")
        process.start()
        theirs.close()
        self._slots[slot] = (process, ours)


def supervise(folder: Path, storage: str | None, before: Before) -> None:
    """The target of a process; exit code 0 where the study is complete."""
    context = make_bench(folder, sites=SITES, workers=WORKERS)
    with Stopper() as stopper:
        view = PlanView(context, phases(), ())
        supervisor = Forking(view, store_of(folder, storage), SilentProgress(), stopper, None)
        supervisor.folder, supervisor.storage, supervisor.before = folder, storage, before
        os._exit(0 if supervisor.run() else 1)


def _work(folder: Path, storage: str | None, before: Before, pipe: Connection, parent: int) -> None:
    """A worker of that supervisor; a file PID.pid says that it is one."""
    (folder / f"{os.getpid()}.pid").touch()
    with Stopper(parent=parent) as stopper:
        context = make_bench(folder, sites=SITES)
        objective = FakeObjective(before=before)
        engine = Worker(context, store_of(folder, storage), phases(), objective, PipeProgress(pipe), stopper)
        os._exit(0 if engine.work(lead=True) else 1)
