"""Several long-lived workers on one host, each a process of its own, and a supervisor that starts them again.

The supervisor takes the steps from phase to phase; workers claim runs from the storage and tell results there.
What a worker says over its pipe is for the progress display only: nothing is lost with it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from reborn_nas.errors import RebornError, StudyError
from reborn_nas.records import TrialRecord
from reborn_nas.study.config import StudyConfig
from reborn_nas.study.engine import Engine
from reborn_nas.study.progress import Progress, SilentProgress
from reborn_nas.study.stopping import Stopper

if TYPE_CHECKING:
    from reborn_nas.study.planning import PlanView
    from reborn_nas.study.storage import RunStore

__all__ = ["join", "supervise"]

GRACE = 4.0
"""Seconds that workers have to give back what they hold before they are killed."""

LEAD = 1.0
"""Seconds between two looks of the supervisor at the whole queue."""

MOST_DEATHS = 15
"""Deaths in a row without a result between them after which the supervisor gives up."""


class PipeProgress(SilentProgress):
    """Sends what a worker sees to its supervisor; silent once that is gone."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def trial_started(self, key: str, phase: str, done: int, total: int) -> None:
        """See `Progress`."""
        self._send("started", key, phase)

    def epoch(self, key: str, epoch: int, epochs: int, metrics: Mapping[str, float]) -> None:
        """See `Progress`."""
        self._send("epoch", key, epoch, epochs, dict(metrics))

    def trial_finished(self, record: TrialRecord, done: int, total: int) -> None:
        """See `Progress`."""
        self._send("finished", record)

    def note(self, text: str) -> None:
        """See `Progress`."""
        self._send("note", text)

    def _send(self, *message: Any) -> None:
        try:
            self._pipe.send(message)
        except OSError:
            return


def supervise(view: PlanView, store: RunStore, progress: Progress, stopper: Stopper) -> bool:
    """Run the plan with `config.workers` processes; whether it is complete.

    Raises:
        StudyError: workers cannot start, or die again and again.
    """
    return _Supervisor(view, store, progress, stopper).run()


class _Supervisor:
    def __init__(self, view: PlanView, store: RunStore, progress: Progress, stopper: Stopper) -> None:
        self._config = view.config
        self._progress = progress
        self._stopper = stopper
        self._engine = Engine(view.bench, store, view.phases, _never, progress, stopper)
        self._planned = {phase.name: phase.count for phase in view.phases}
        self._done = dict.fromkeys(self._planned, 0)
        self._started: set[str] = set()
        self._slots: dict[int, tuple[BaseProcess, Connection]] = {}
        self._deaths = 0
        self._error = ""

    def run(self) -> bool:
        self._engine.lead()
        self._recount()
        if self._engine.complete():
            return True
        try:
            for slot in range(self._config.workers):
                self._start(slot)
            return self._watch()
        finally:
            self._stop_all()
            self._engine.queue.reap()  # what killed workers held is free for the next call at once

    def _watch(self) -> bool:
        looked = time.monotonic()
        while not self._stopper.wanted:
            for pipe in wait([pipe for _, pipe in self._slots.values()], timeout=0.2):
                self._receive(next(slot for slot, pair in self._slots.items() if pair[1] is pipe))
            if self._error:
                raise StudyError(self._error)
            if time.monotonic() - looked >= LEAD:
                began = time.monotonic()
                while self._engine.lead():
                    continue
                if self._engine.complete():
                    return True
                # a long queue is looked at less often: never more than a tenth of the time
                looked = time.monotonic() + 9 * (time.monotonic() - began)
        return False

    def _start(self, slot: int) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        devices = self._config.devices or (self._config.device,)
        process = context.Process(
            target=_work,
            args=(self._config.as_given(), devices[slot % len(devices)], theirs, os.getpid()),
            name=f"worker {slot}",
            daemon=True,
        )
        process.start()
        theirs.close()
        self._slots[slot] = (process, ours)

    def _receive(self, slot: int) -> None:
        process, pipe = self._slots[slot]
        try:
            message = pipe.recv()
        except (EOFError, OSError):
            self._bury(slot)
            return
        except Exception:  # half a message of a worker that was killed while sending
            process.kill()
            self._bury(slot)
            return
        kind, *content = message
        if kind == "finished":
            self._deaths = 0
            self._finished(content[0])
        elif kind == "started":
            key, phase = content
            if phase not in self._started:
                self._started.add(phase)
                self._progress.phase_started(phase, self._planned[phase])
            self._progress.trial_started(key, phase, sum(self._done.values()), self._engine.total)
        elif kind == "epoch":
            self._progress.epoch(*content)
        elif kind == "note":
            self._progress.note(content[0])
        elif kind == "error":
            self._error = content[0]

    def _finished(self, record: TrialRecord) -> None:
        self._done[record.phase] += 1
        self._progress.trial_finished(record, sum(self._done.values()), self._engine.total)
        if self._done[record.phase] == self._planned[record.phase]:
            self._progress.phase_finished(record.phase)

    def _bury(self, slot: int) -> None:
        """A worker is gone: start another unless it ended because all is done, or they all die."""
        process, pipe = self._slots.pop(slot)
        pipe.close()
        process.join(timeout=GRACE)
        if self._engine.complete() or self._stopper.wanted:
            return
        self._deaths += 1
        if self._deaths >= MOST_DEATHS:
            self._error = (
                f"{self._deaths} workers died in a row without a result, the last with exit code {process.exitcode}; "
                "what is finished is kept. Run the same command with --workers 1 to see why"
            )
            return
        self._progress.note(
            f"{process.name} ended with exit code {process.exitcode}; a new one takes its place"
        )
        self._engine.lead()
        self._start(slot)

    def _stop_all(self) -> None:
        for process, _ in self._slots.values():
            if process.is_alive():
                process.terminate()
        until = time.monotonic() + GRACE
        for process, pipe in self._slots.values():
            # a worker that is sending must not block on a full pipe
            while process.is_alive() and time.monotonic() < until:
                try:
                    while pipe.poll():
                        pipe.recv()
                except (EOFError, OSError):
                    break
                process.join(timeout=0.05)
            process.join(timeout=max(0.0, until - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()

    def _recount(self) -> None:
        self._done = {name: len(self._engine.queue.finished(name)) for name in self._planned}


def _never(*_: Any, **__: Any) -> TrialRecord:
    raise StudyError("a supervisor trains nothing")


def _work(settings: Mapping[str, Any], device: str, pipe: Connection, supervisor: int) -> None:
    """A worker process: prepare once, then claim and train until nothing is left or the supervisor is gone."""
    progress = PipeProgress(pipe)
    try:
        config = StudyConfig(**settings)
        with Stopper(parent=supervisor) as stopper:
            _run_worker(config, device, progress, stopper, lead=False)
    except RebornError as error:
        pipe.send(("error", str(error)))
    except KeyboardInterrupt:
        return
    finally:
        pipe.close()
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _run_worker(
    config: StudyConfig, device: str, progress: Progress, stopper: Stopper, *, lead: bool
) -> bool:
    import torch

    from reborn_nas.study.objective import Objective
    from reborn_nas.study.phases import Phase
    from reborn_nas.study.planning import check_same
    from reborn_nas.study.run import find_store
    from reborn_nas.study.workbench import make_workbench

    torch.set_num_threads(config.threads or 1)
    bench = make_workbench(config, device)
    store = find_store(config, patience=300)
    if store is None:
        raise StudyError(f"there is no study {config.study_name!r} to join; `reborn-nas search` begins it")
    check_same(store, bench)
    plan = store.attribute("plan")
    if plan is None:
        raise StudyError(f"study {config.study_name!r} has no plan yet; `reborn-nas search` makes it")
    phases = [Phase.from_dict(row) for row in plan["phases"]]
    engine = Engine(bench, store, phases, Objective(bench, config.folder), progress, stopper)
    return engine.work(lead=lead)


def join(
    storage: str,
    study: str,
    *,
    device: str = "auto",
    progress: Progress | None = None,
    timeout: float | None = None,
    **overrides: Any,
) -> bool:
    """Join a study from any machine that reaches its storage and has its data; whether the study is complete.

    Args:
        storage: the storage's URL.
        study: the study's name.
        device: where to train.
        timeout: leave after so many seconds.
        overrides: settings of this machine alone: `data_dir`, `run` (folder for curves and weights), `threads`.

    Raises:
        StudyError: no such study, or it differs from what this machine would train.
    """
    from reborn_nas.study.reading import open_store

    store = open_store(storage, study)
    kept = store.attribute("config", {})
    known = {
        key: value for key, value in kept.items() if key in StudyConfig.model_fields and value is not None
    }
    changes = {key: value for key, value in overrides.items() if value is not None}
    config = StudyConfig(
        **{**known, **changes, "storage": storage, "workers": 1, "devices": (), "device": device}
    )
    config.folder.mkdir(parents=True, exist_ok=True)
    with Stopper(timeout) as stopper:
        return _run_worker(config, device, progress or SilentProgress(), stopper, lead=True)
