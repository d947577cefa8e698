"""One worker's loop: claim a run, propose its architecture, train it, tell the result."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

import torch

from reborn_nas.architecture import Architecture
from reborn_nas.errors import (
    FIRST_WAIT,
    LONGEST_WAIT,
    PATIENCE,
    DeviceLostError,
    MachineError,
    StudyError,
    machine_fault,
    pause,
)
from reborn_nas.known import remember_code, remember_storage
from reborn_nas.metric import speaking
from reborn_nas.records import TrialRecord
from reborn_nas.study.config.config import StudyConfig
from reborn_nas.study.config.urls import mask_url
from reborn_nas.study.plan.designs import Run
from reborn_nas.study.plan.phases import ORDER, Phase
from reborn_nas.study.setup.context import StudyContext, check_same, site_row
from reborn_nas.study.setup.resolve import make_context, settle_numerics
from reborn_nas.study.setup.warm import search_epochs
from reborn_nas.study.store.attempts import BEAT
from reborn_nas.study.store.journal import together
from reborn_nas.study.store.outcome import Illustrate, picture_attributes
from reborn_nas.study.store.patience import AwayError
from reborn_nas.study.store.queue import Claim, RunQueue
from reborn_nas.study.store.storage import RunStore, find_store
from reborn_nas.study.trainer.objective import Objective, Pruned, Stopped
from reborn_nas.study.worker.log import log, log_result, log_training
from reborn_nas.study.worker.progress import PhaseCounts, Progress
from reborn_nas.study.worker.proposals import MOST_REJECTIONS, Proposals
from reborn_nas.study.worker.schedule import Schedule
from reborn_nas.study.worker.stop import HungError, Pace, Stopper, Watchdog
from reborn_nas.training import threads_each

__all__ = ["Executes", "Worker", "run_worker"]

IDLE = 0.25
"""Seconds between two polls of a queue in which nothing is waiting."""


class Executes(Protocol):
    """Trains one architecture; `objective.Objective` is one."""

    def __call__(
        self,
        run: Run,
        architecture: Architecture,
        on_epoch: Callable[[int, Mapping[str, float]], None] | None = None,
    ) -> TrialRecord:
        """Train, and return the record."""


class Worker:
    """Trains the runs of a study, one after another.

    Args:
        context: what all trainings have in common.
        store: the run's studies.
        phases: the plan.
        execute: trains one architecture.
        progress: called as trainings begin and end.
        stopper: decides when to stop.
        settled: called when a training's result is stored.
        expendable: whether this process may end itself over a training that hangs, since another one takes its place.
        illustrate: draws a finished training; its pictures become artifacts of the trial.
    """

    def __init__(
        self,
        context: StudyContext,
        store: RunStore,
        phases: Sequence[Phase],
        execute: Executes,
        progress: Progress,
        stopper: Stopper,
        settled: Callable[[], None] | None = None,
        expendable: bool = False,
        illustrate: Illustrate | None = None,
    ) -> None:
        self._context, self._store = context, store
        self._execute, self._illustrate = execute, illustrate
        self._settled, self._expendable = settled, expendable
        self._progress, self._stopper = progress, stopper
        self._proposals = Proposals(context, store)
        self.queue = RunQueue(store, context.phase_labels(), outcome=self._proposals.outcome)
        self.schedule = Schedule(context, store, phases, self.queue, progress)
        self._counts = PhaseCounts(progress, phases)
        self._pace = Pace(context.config, phases, context.epochs)
        self._any_epoch = True
        self._any_good = False
        self._failing: tuple[float, float] | None = None
        """When this machine began to fail at every run, and the seconds of the next pause."""

    def work(self, *, lead: bool) -> bool:
        """Train until the plan is complete (True) or the stopper asks to stop (False).

        Args:
            lead: also advance the study from phase to phase. Several leaders do no harm.
        """
        if lead:
            self.schedule.lead()
        self._counts.recount(self.queue.done)
        while not self._stopper.wanted:
            if self.schedule.spent():
                self._stopper.spent = True
            elif not self.step(lead=lead):
                if self.schedule.complete():
                    return True
                time.sleep(IDLE)
        return False

    def step(self, *, lead: bool) -> bool:
        """Claim a run, propose its architecture, train it, tell the result; False if no run is waiting."""
        claim = self._claim(lead)
        if claim is None:
            return False
        with log_training(claim.run.key):
            log.info("begins")
            self._counts.started(claim.run.key, claim.run.phase)
            began = time.perf_counter()
            try:
                architecture = self._propose(claim)
                proposed = time.perf_counter()
                record = self._train(claim, architecture)
            except BaseException as error:
                if not self._give_back(claim, error):
                    raise
            else:
                self._failing = None
                self._tell(claim, record, proposed - began)
        return True

    def _claim(self, lead: bool) -> Claim | None:
        claim = self.queue.claim(ORDER)
        if claim is None and lead and self.schedule.lead():
            claim = self.queue.claim(ORDER)
        return claim

    def _propose(self, claim: Claim) -> Architecture:
        with together(self._store.storage):
            self.queue.beat(claim, 0)
            return self._proposals.propose(claim)

    def _train(self, claim: Claim, architecture: Architecture) -> TrialRecord:
        watchdog = Watchdog(self._limit, self._on_hang(claim, architecture))
        self._any_epoch = False
        with self._beating(claim), self._stopper.training(), watchdog:
            record = self._execute(claim.run, architecture, self._on_epoch(claim, watchdog))
        if self._stopper.training_interrupted:  # user code caught the interruption and returned early
            raise KeyboardInterrupt
        if watchdog.training_interrupted and record.state == "complete":
            return self._hung(claim, architecture, watchdog.training_interrupted)
        return record

    def _hung(self, claim: Claim, architecture: Architecture, reason: str) -> TrialRecord:
        return claim.run.failure(
            claim.number, f"HungError: {reason}", architecture.to_dict(), claim.run.parameters
        )

    def _tell(self, claim: Claim, record: TrialRecord, overhead: float) -> None:
        """Store the result; a proposal that was over budget is asked for again.

        Args:
            overhead: seconds that the proposal took.
        """
        if record.state == "rejected" and claim.rejections < MOST_REJECTIONS:
            self.queue.reject(claim, self._proposals.outcome(record), record.reason)
            return
        began = time.perf_counter()
        pictures = self._pictures(record)
        overhead += record.overhead_seconds + time.perf_counter() - began
        record = replace(record, number=claim.number, overhead_seconds=overhead)
        outcome = self._proposals.outcome(record)
        self._proposals.after_trial(claim, outcome)
        log_result(record, self._context.metric)
        if self.queue.finish(claim, record, outcome, pictures):
            self._counts.finished(record)
        if self._settled is not None:
            self._settled()
        self._any_good = self._any_good or record.state not in ("failed", "diverged")
        if not self._any_good:
            self.schedule.raise_if_all_fail()

    def _give_back(self, claim: Claim, error: BaseException) -> bool:
        """End an attempt that raised `error`, so that the run gets another one; whether this worker continues."""
        if isinstance(error, Stopped | KeyboardInterrupt | HungError):
            log.warning("ends early and is given back: %s", type(error).__name__)
            if not claim.lost:
                self.queue.give_back(claim)
            return True
        if isinstance(error, DeviceLostError):
            log.error("lost with its device: %s", error)
            self.queue.give_back(claim, f"lost with its device: {error}")
            return False
        if isinstance(error, AwayError):
            self.queue.abandon(claim)
            return False
        fault = machine_fault(error)
        log.error("its %s failed: %s", "worker" if fault is None else "machine", fault or error)
        self.queue.give_back(claim, "its worker failed" if fault is None else f"its machine failed: {fault}")
        if fault is None:
            return False
        self._recover(fault)
        return True

    def _recover(self, fault: str) -> None:
        """Wait before this machine takes another run.

        Raises:
            MachineError: waiting has not helped for `PATIENCE` seconds.
        """
        now = time.monotonic()
        began, wait = self._failing or (now, FIRST_WAIT)
        if now - began > PATIENCE:
            raise MachineError(
                f"{fault}, for {now - began:.0f} s; what is finished is kept. Fix that and run the same command"
            )
        log.warning("a training was given back (%s); the next begins in %.1f s", fault, wait)
        self._failing = began, min(2 * wait, LONGEST_WAIT)
        pause(wait, lambda: self._stopper.wanted)

    def _limit(self) -> float | None:
        """Seconds that an epoch may take. A user's own training that reports none is limited by `hang_after`."""
        if self._context.own is not None and not self._any_epoch:
            return self._context.config.hang_after
        return self._pace.limit()

    def _on_hang(self, claim: Claim, architecture: Architecture) -> Callable[[str], None] | None:
        """A callback that stores that a training hangs; None if this process must not be ended."""
        if not self._expendable:
            return None

        def store(reason: str) -> None:
            record = self._hung(claim, architecture, reason)
            self.queue.finish(claim, record, self._proposals.outcome(record))

        return store

    def _pictures(self, record: TrialRecord) -> dict[str, str]:
        """The attributes that name the training's pictures, which have been written to the run folder."""
        if self._illustrate is None:
            return {}
        sites = self._context.sites
        own = record.architecture.get("backbone")
        variant = next((spec for spec in self._context.variants if spec.to_dict() == own), None)
        if variant is not None:  # of another width
            sites = self._context.traced(variant)[1].sites
        rows = [site_row(site) for site in sites]
        return picture_attributes(self._illustrate, record, rows, self._context.config.folder)

    def _on_epoch(self, claim: Claim, watchdog: Watchdog) -> Callable[[int, Mapping[str, float]], None]:
        searching = claim.run.phase == "search"
        epochs = search_epochs(self._context) if searching else self._context.epochs

        def on_epoch(epoch: int, metrics: Mapping[str, float]) -> None:
            if not self._any_epoch and epoch > 1:
                self.queue.resumed(claim, epoch - 1)
            self._any_epoch = True
            self._pace.epoch(watchdog.moved())
            self._progress.epoch(claim.run.key, epoch, epochs, metrics)
            if claim.lost or (self._stopper.wanted and epoch < epochs):
                raise Stopped
            if epoch < epochs and self._proposals.should_prune(claim, epoch, metrics):
                raise Pruned

        return on_epoch

    @contextmanager
    def _beating(self, claim: Claim) -> Iterator[None]:
        """Renew the lease and reap expired ones from a thread, every `BEAT` seconds."""
        over = threading.Event()

        def beat() -> None:
            count = 0
            while not over.wait(BEAT) and not claim.lost:
                count += 1
                try:
                    self.queue.beat(claim, count)
                    self.queue.reap()
                except Exception:  # the main thread deals with a storage that does not answer
                    continue

        thread = threading.Thread(target=beat, name=f"lease of {claim.run.key}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()


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
    """Train the runs of the study's queue in this process; whether the study is complete.

    Raises:
        StudyError: no such study, or it differs from what this process would train.
    """
    torch.set_num_threads(config.threads or threads_each(config.processes))
    settle_numerics(deterministic=config.deterministic)
    store = find_store(config, patience=300)
    if store is None:
        raise StudyError(f"there is no study {config.study_name!r} to join; `reborn-nas search` starts it")
    context = make_context(config, device, proofs=store.attribute("proofs"))
    check_same(store, context)
    for spec in context.code:
        remember_code(spec)
    if config.storage is not None:
        remember_storage(mask_url(config.storage))
    plan = store.attribute("plan")
    if plan is None:
        raise StudyError(f"study {config.study_name!r} has no plan yet; `reborn-nas search` makes it")
    phases = [Phase.from_dict(row) for row in plan["phases"]]
    objective = Objective(context, config.folder, stopping=lambda: stopper.wanted)
    worker = Worker(
        context,
        store,
        phases,
        objective,
        progress,
        stopper,
        settled=objective.forget,
        expendable=expendable,
        illustrate=illustrate,
    )
    with speaking(context.metric):
        return worker.work(lead=lead)
