"""Several long-lived workers on one host, each in its own process, under a supervisor that restarts them; and workers
that join a study from another host.

The supervisor advances the study from phase to phase; workers claim runs from the storage and store results there.
A worker's pipe only feeds the progress display, so that nothing is lost with it.
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
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from reborn_nas.errors import DeviceLostError, RebornError, StudyError
from reborn_nas.records import TrialRecord
from reborn_nas.study.config.config import StudyConfig, known_settings
from reborn_nas.study.config.urls import JOURNAL, mask_url, require_file
from reborn_nas.study.config.values import SCHEME
from reborn_nas.study.plan.phases import Phase
from reborn_nas.study.setup.children import start_child
from reborn_nas.study.setup.context import check_same
from reborn_nas.study.setup.planning import PlanView
from reborn_nas.study.setup.processes import processes_here
from reborn_nas.study.setup.resolve import make_context
from reborn_nas.study.store.outcome import Illustrate
from reborn_nas.study.store.queue import RunQueue
from reborn_nas.study.store.storage import RunStore, connect, open_run
from reborn_nas.study.worker.log import VERBOSE, log, log_to
from reborn_nas.study.worker.loop import run_worker
from reborn_nas.study.worker.progress import PhaseCounts, Progress, SilentProgress
from reborn_nas.study.worker.proposals import Proposals
from reborn_nas.study.worker.schedule import Schedule
from reborn_nas.study.worker.stop import EXIT_CODE, NOTICE, Stopper
from reborn_nas.training.device.selection import pick_device

if TYPE_CHECKING:
    from reborn_nas.study.setup.planning import PlanView

__all__ = [
    "join",
    "supervise",
]

GRACE = 4.0
"""Seconds that workers have to give back their runs, unless there is something to wait for, before they are killed."""

REAP = 5.0
"""Seconds between two checks of the leases."""

LEAD = 1.0
"""Seconds between two checks of the entire queue."""

MOST_DEATHS = 15
"""Consecutive deaths without a result after which the supervisor gives up, if nothing was ever trained. Four times
as many otherwise: then single architectures take their workers down, and after five deaths each is given up.
"""


class PipeProgress(SilentProgress):
    """Forwards a worker's events to its supervisor, if that still exists."""

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
        self._device = view.context.device
        self._illustrate = illustrate
        self._progress = progress
        self._stopper = stopper
        self._queue = RunQueue(
            store, view.context.phase_labels(), outcome=Proposals(view.context, store).outcome
        )
        self._schedule = Schedule(view.context, store, view.phases, self._queue, progress)
        self._counts = PhaseCounts(progress, view.phases)
        self._slots: dict[int, tuple[BaseProcess, Connection]] = {}
        self._deaths = 0
        self._trained = False
        self._error = ""

    def run(self) -> bool:
        self._schedule.lead()
        self._counts.recount(self._queue.done)
        self._trained = self._schedule.any_complete()
        if self._schedule.complete():
            return True
        try:
            for slot in range(self._config.processes):
                self._start(slot)
            return self._watch()
        except KeyboardInterrupt:
            return False
        finally:
            self._stop_all()
            self._queue.reap()  # the next call can claim at once what killed workers held

    def _watch(self) -> bool:
        looked = reaped = time.monotonic()
        while not self._stopper.wanted:
            for pipe in wait([pipe for _, pipe in self._slots.values()], timeout=0.2):
                self._receive(next(slot for slot, pair in self._slots.items() if pair[1] is pipe))
            if self._error:
                raise StudyError(self._error)
            if time.monotonic() - reaped >= REAP:
                self._queue.reap()
                self._stopper.spent = self._schedule.spent()
                reaped = time.monotonic()
            if time.monotonic() - looked >= LEAD:
                began = time.monotonic()
                while self._schedule.lead():
                    continue
                if self._schedule.complete():
                    return True
                # a long queue is checked less often: for at most a tenth of the time
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
            self._replace(slot)
            return
        except Exception:  # half a message of a worker that was killed while sending
            process.kill()
            self._replace(slot)
            return
        kind, *content = message
        if kind == "finished":
            self._deaths = 0
            self._finished(content[0])
        elif kind == "started":
            self._counts.started(*content)
        elif kind == "epoch":
            self._progress.epoch(*content)
        elif kind == "note":
            self._progress.note(content[0])
        elif kind == "error":
            self._error = content[0]

    def _finished(self, record: TrialRecord) -> None:
        self._trained = self._trained or record.state == "complete"
        self._counts.finished(record)

    def _replace(self, slot: int) -> None:
        """Replace a worker that has ended, unless everything is done; stop with an error if workers keep dying."""
        process, pipe = self._slots.pop(slot)
        pipe.close()
        process.join(timeout=GRACE)
        if self._schedule.complete() or self._stopper.wanted or self._schedule.spent():
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
        self._schedule.lead()
        self._start(slot)

    def _stop_all(self) -> None:
        """Ask the workers to stop, wait for what they are allowed to finish, and kill the rest."""
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
        """Keep reading for a moment, so that no worker blocks on a full pipe."""
        pipes = [pipe for process, pipe in self._slots.values() if process.is_alive()]
        for pipe in wait(pipes, timeout=0.05):
            with suppress(EOFError, OSError):
                message = cast("Connection", pipe).recv()
                if message[0] == "finished":
                    self._finished(message[1])
        time.sleep(0.02)


def _devices(config: StudyConfig) -> tuple[str, ...]:
    """One device per slot, round robin: the given ones, else all GPUs of this machine, else the CPU."""
    if config.devices:
        return config.devices
    if config.device in ("auto", "cuda") and torch.cuda.device_count() > 1:
        return tuple(f"cuda:{number}" for number in range(torch.cuda.device_count()))
    return (config.device,)


def _work(
    settings: Mapping[str, Any],
    device: str,
    supervisor: int,
    illustrate: Illustrate | None,
    pipe: Connection,
) -> None:
    """Prepare once, then claim and train in this worker process until nothing is left or the supervisor is gone."""
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


OWN = ("timeout", "workers")
"""Settings that each machine chooses for itself."""

PATIENCE = 300.0
"""Seconds that a worker waits for a database that does not answer at first."""


def join(
    storage: str,
    study: str,
    *,
    device: str = "auto",
    devices: tuple[str, ...] | str = (),
    workers: int | str = "auto",
    progress: Progress | None = None,
    timeout: float | None = None,
    illustrate: Illustrate | None = None,
    stopper: Stopper | None = None,
    expendable: bool = False,
    **overrides: Any,
) -> bool:
    """Join a study from any machine with access to its storage and its data; whether the study is complete.

    Args:
        storage: the storage's URL.
        study: the study's name.
        device: where to train.
        devices: one process each, under a supervisor that restarts those that die.
        workers: number of such processes, or "auto": one per device or CPU core; 1 trains in this process.
        timeout: leave after so many seconds.
        illustrate: as in `run_search`.
        stopper: decides when to leave, in place of `timeout`.
        expendable: whether this process may end itself over a training that hangs.
        overrides: settings of this machine only: `data_dir`, `cache_dir`, `dataset`, `run` (folder for curves and
            weights), `artifacts`, `threads`; and `adopt`.

    Raises:
        StudyError: no such study, or it differs from what this machine would train.
    """
    require_file(storage)
    store = open_run(connect(storage, patience=PATIENCE), study)
    changes = {key: value for key, value in overrides.items() if value is not None}
    place = {"storage": storage, "device": device, "devices": devices}
    config = StudyConfig(**{**_settled(store, storage), **changes, **place, "workers": workers})
    if config.workers == "auto":
        config = config.with_processes(processes_here(pick_device(device)[0], config))
    config.folder.mkdir(parents=True, exist_ok=True)
    watcher = progress or SilentProgress()
    with stopper or Stopper(timeout) as stop:
        if config.processes > 1:
            return _several(config, store, watcher, stop, illustrate)
        single = config.devices[0] if config.devices else device
        with log_to(config.folder, "0"):
            return run_worker(config, single, watcher, stop, illustrate, lead=True, expendable=expendable)


def _settled(store: RunStore, storage: str) -> dict[str, Any]:
    """The study's settings, except those that belong to another machine."""
    kept: Mapping[str, Any] = store.attribute("config", {})
    known = {key: value for key, value in known_settings(kept).items() if key not in OWN}
    for key in ("data_dir", "cache_dir", "artifacts"):
        if key in known and not known[key].startswith(SCHEME) and not Path(known[key]).is_dir():
            del known[key]
    threads = (store.attribute("settings") or {}).get("threads")
    if threads is not None:  # sums depend on them
        known["threads"] = threads
    known["run"] = Path("runs") / store.name
    if storage.startswith("journal://") and Path(storage).name == JOURNAL:
        known["run"] = Path(storage.removeprefix("journal://")).absolute().parent
    return known


def _several(
    config: StudyConfig, store: RunStore, progress: Progress, stopper: Stopper, illustrate: Illustrate | None
) -> bool:
    context = make_context(config, proofs=store.attribute("proofs"))
    check_same(store, context)
    plan = store.attribute("plan")
    if plan is None:
        raise StudyError(
            f"study {store.name!r} in {mask_url(config.storage or '')} has no plan yet; `reborn-nas search` makes it"
        )
    phases = tuple(Phase.from_dict(row) for row in plan["phases"])
    return supervise(PlanView(context, phases, ()), store, progress, stopper, illustrate)
