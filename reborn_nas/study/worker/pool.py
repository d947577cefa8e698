"""Several long-lived workers on one host, each a process of its own, and a supervisor that starts them again.

The supervisor takes the steps from phase to phase; workers claim runs from the storage and tell results there.
What a worker says over its pipe is for the progress display only: nothing is lost with it.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess, current_process
from typing import TYPE_CHECKING, Any, cast

from reborn_nas.errors import DeviceLostError, RebornError, StudyError
from reborn_nas.known import remember_code, remember_storage
from reborn_nas.records import TrialRecord
from reborn_nas.study.config.config import StudyConfig
from reborn_nas.study.config.masking import mask_url
from reborn_nas.study.setup.children import start_child
from reborn_nas.study.store.artifacts import Illustrate
from reborn_nas.study.worker.engine import Engine
from reborn_nas.study.worker.logs import VERBOSE, log, log_to
from reborn_nas.study.worker.progress import Progress, SilentProgress
from reborn_nas.study.worker.stopping import NOTICE, Stopper
from reborn_nas.study.worker.watchdog import EXIT_CODE

if TYPE_CHECKING:
    from reborn_nas.study.setup.planning import PlanView
    from reborn_nas.study.store.storage import RunStore

__all__ = ["run_worker", "supervise"]

GRACE = 4.0
"""Seconds that workers have to give back what they hold, when there is nothing to wait for, before they are killed."""

REAP = 5.0
"""Seconds between two looks of the supervisor at the leases."""

LEAD = 1.0
"""Seconds between two looks of the supervisor at the whole queue."""

MOST_DEATHS = 15
"""Deaths in a row without a result between them after which the supervisor gives up, where nothing was ever trained.
Four times as many where something was: then architectures take their workers down, and five deaths end one.
"""


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


def supervise(
    view: PlanView,
    store: RunStore,
    progress: Progress,
    stopper: Stopper,
    illustrate: Illustrate | None = None,
) -> bool:
    """Run the plan with `config.processes` processes; whether it is complete.

    Raises:
        StudyError: workers cannot start, or die again and again.
    """
    return _Supervisor(view, store, progress, stopper, illustrate).run()


class _Supervisor:
    def __init__(
        self,
        view: PlanView,
        store: RunStore,
        progress: Progress,
        stopper: Stopper,
        illustrate: Illustrate | None,
    ) -> None:
        self._config = view.config
        self._device = view.bench.device
        self._illustrate = illustrate
        self._progress = progress
        self._stopper = stopper
        self._engine = Engine(view.bench, store, view.phases, _never, progress, stopper)
        self._planned = {phase.name: phase.count for phase in view.phases}
        self._done = dict.fromkeys(self._planned, 0)
        self._started: set[str] = set()
        self._slots: dict[int, tuple[BaseProcess, Connection]] = {}
        self._deaths = 0
        self._trained = False
        self._error = ""

    def run(self) -> bool:
        self._engine.lead()
        self._recount()
        if self._engine.complete():
            return True
        try:
            for slot in range(self._config.processes):
                self._start(slot)
            return self._watch()
        except KeyboardInterrupt:
            return False
        finally:
            self._stop_all()
            self._engine.queue.reap()  # what killed workers held is free for the next call at once

    def _watch(self) -> bool:
        looked = reaped = time.monotonic()
        while not self._stopper.wanted:
            for pipe in wait([pipe for _, pipe in self._slots.values()], timeout=0.2):
                self._receive(next(slot for slot, pair in self._slots.items() if pair[1] is pipe))
            if self._error:
                raise StudyError(self._error)
            if time.monotonic() - reaped >= REAP:
                self._engine.queue.reap()
                self._stopper.spent = self._engine.spent()
                reaped = time.monotonic()
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
        devices = _devices(self._config)
        settings = {**self._config.as_given(), "workers": self._config.processes}
        arguments = (settings, devices[slot % len(devices)], os.getpid(), self._illustrate)
        self._slots[slot] = start_child(_work, arguments, f"worker {slot}")

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
        self._trained = self._trained or record.state == "complete"
        self._done[record.phase] += 1
        self._progress.trial_finished(record, sum(self._done.values()), self._engine.total)
        if self._done[record.phase] == self._planned[record.phase]:
            self._progress.phase_finished(record.phase)

    def _bury(self, slot: int) -> None:
        """A worker is gone: start another unless it ended because all is done, or they all die."""
        process, pipe = self._slots.pop(slot)
        pipe.close()
        process.join(timeout=GRACE)
        if self._engine.complete() or self._stopper.wanted or self._engine.spent():
            return
        self._deaths += 1
        if self._deaths >= (4 if self._trained else 1) * MOST_DEATHS:
            self._error = (
                f"{self._deaths} workers died in a row without a result, the last with exit code {process.exitcode}; "
                "what is finished is kept. Run the same command with --workers 1 to see why"
            )
            return
        log.warning("worker %d ended with exit code %s; a new one takes its place", slot, process.exitcode)
        self._progress.note(
            f"{process.name} ended with exit code {process.exitcode}; a new one takes its place"
        )
        self._engine.lead()
        self._start(slot)

    def _stop_all(self) -> None:
        """Ask the workers to stop, wait for what they are allowed to finish, and kill who is left."""
        for process, _ in self._slots.values():
            if process.is_alive():
                process.terminate()
        stopper = self._stopper
        patient = stopper.wanted and not self._error
        until = time.monotonic() + (NOTICE if stopper.terminated else math.inf if patient else GRACE)
        try:
            while self._alive() and time.monotonic() < until and not stopper.at_once:
                self._drain()
        except KeyboardInterrupt:
            pass
        for process in self._alive():
            process.terminate()  # for the second time: at once
        until = time.monotonic() + GRACE
        while self._alive() and time.monotonic() < until:
            self._drain()
        for process in self._alive():
            process.kill()
            process.join()

    def _alive(self) -> list[BaseProcess]:
        return [process for process, _ in self._slots.values() if process.is_alive()]

    def _drain(self) -> None:
        """Read on for a moment, since a worker that is sending must not block on a full pipe."""
        pipes = [pipe for process, pipe in self._slots.values() if process.is_alive()]
        for pipe in wait(pipes, timeout=0.05):
            with suppress(EOFError, OSError):
                message = cast("Connection", pipe).recv()
                if message[0] == "finished":
                    self._finished(message[1])
        time.sleep(0.02)

    def _recount(self) -> None:
        found = {name: self._engine.queue.finished(name).values() for name in self._planned}
        self._done = {name: len(records) for name, records in found.items()}
        self._trained = any(record.state == "complete" for records in found.values() for record in records)


def _devices(config: StudyConfig) -> tuple[str, ...]:
    """One device a slot, in turn: those that were named, else all GPUs of this machine, else the CPU."""
    if config.devices:
        return config.devices
    if config.device in ("auto", "cuda"):
        import torch

        if torch.cuda.device_count() > 1:
            return tuple(f"cuda:{number}" for number in range(torch.cuda.device_count()))
    return (config.device,)


def _never(*_: Any, **__: Any) -> TrialRecord:
    raise StudyError("a supervisor trains nothing")


def _work(
    settings: Mapping[str, Any],
    device: str,
    supervisor: int,
    illustrate: Illustrate | None,
    pipe: Connection,
) -> None:
    """A worker process: prepare once, then claim and train until nothing is left or the supervisor is gone."""
    progress = PipeProgress(pipe)
    try:
        config = StudyConfig(**settings)
        number = current_process().name.removeprefix("worker ")
        shown = VERBOSE in os.environ
        with Stopper(parent=supervisor) as stopper, log_to(config.folder, number, shown=shown):
            run_worker(config, device, progress, stopper, illustrate, lead=True, expendable=True)
    except DeviceLostError as error:
        progress.note(str(error))
        pipe.close()
        os._exit(
            EXIT_CODE
        )  # an orderly exit would wait for the device; another process takes this one's place
    except RebornError as error:
        pipe.send(("error", str(error)))
    except KeyboardInterrupt:
        return
    finally:
        pipe.close()
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def run_worker(
    config: StudyConfig,
    device: str,
    progress: Progress,
    stopper: Stopper,
    illustrate: Illustrate | None = None,
    *,
    lead: bool,
    expendable: bool = False,
) -> bool:
    """Train in this process what the study's queue holds; whether the study is complete.

    Raises:
        StudyError: no such study, or it differs from what this process would train.
    """
    import torch

    from reborn_nas.study.plan.phases import Phase
    from reborn_nas.study.setup.planning import check_same
    from reborn_nas.study.setup.workbench import make_workbench, settle_numerics
    from reborn_nas.study.store.storage import find_store
    from reborn_nas.study.trainer.objective import Objective
    from reborn_nas.training import threads_each

    torch.set_num_threads(config.threads or threads_each(config.processes))
    settle_numerics(deterministic=config.deterministic)
    store = find_store(config, patience=300)
    if store is None:
        raise StudyError(f"there is no study {config.study_name!r} to join; `reborn-nas search` begins it")
    bench = make_workbench(config, device, proofs=store.attribute("proofs"))
    check_same(store, bench)
    remember_code(bench.spec)
    if config.storage is not None:
        remember_storage(mask_url(config.storage))
    plan = store.attribute("plan")
    if plan is None:
        raise StudyError(f"study {config.study_name!r} has no plan yet; `reborn-nas search` makes it")
    phases = [Phase.from_dict(row) for row in plan["phases"]]
    objective = Objective(bench, config.folder, stopping=lambda: stopper.wanted)
    engine = Engine(
        bench,
        store,
        phases,
        objective,
        progress,
        stopper,
        settled=objective.forget,
        expendable=expendable,
        illustrate=illustrate,
    )
    return engine.work(lead=lead)
