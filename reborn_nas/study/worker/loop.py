"""One worker's loop: claim a run, propose its architecture, train it, tell the result."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

import torch

from reborn_nas.architecture import Architecture
from reborn_nas.errors import DeviceLostError, StudyError
from reborn_nas.faults import FIRST_WAIT, LONGEST_WAIT, PATIENCE, MachineError, machine_fault, pause
from reborn_nas.known import remember_code, remember_storage
from reborn_nas.records import TrialRecord
from reborn_nas.study.config.config import StudyConfig
from reborn_nas.study.config.urls import mask_url
from reborn_nas.study.plan.designs import Run
from reborn_nas.study.plan.phases import ORDER, Phase
from reborn_nas.study.setup.planning import check_same, site_row
from reborn_nas.study.setup.warm import search_epochs
from reborn_nas.study.setup.workbench import Workbench, make_workbench, settle_numerics
from reborn_nas.study.store.attempts import BEAT
from reborn_nas.study.store.journal import together
from reborn_nas.study.store.outcome import Illustrate, picture_attributes, told
from reborn_nas.study.store.patience import AwayError
from reborn_nas.study.store.queue import Claim, RunQueue
from reborn_nas.study.store.storage import RunStore, find_store
from reborn_nas.study.trainer.objective import Objective, Pruned, Stopped
from reborn_nas.study.worker.progress import Progress, log, training
from reborn_nas.study.worker.proposals import MOST_REJECTIONS, Proposer
from reborn_nas.study.worker.schedule import Leader
from reborn_nas.study.worker.stop import HungError, Pace, Stopper, Watchdog
from reborn_nas.training import threads_each

__all__ = ["Engine", "Executes", "run_worker", "told"]

IDLE = 0.25
"""Seconds between two looks at a queue in which nothing waits."""


_log = logging.getLogger("reborn_nas.study")


class Executes(Protocol):
    """Trains one architecture; `objective.Objective` is one."""

    def __call__(
        self,
        run: Run,
        architecture: Architecture,
        on_epoch: Callable[[int, Mapping[str, float]], None] | None = None,
    ) -> TrialRecord:
        """The record of the training."""


class Engine:
    """Claims runs, has them trained and tells the results.

    Args:
        bench: what all trainings share.
        store: the run's studies.
        phases: the plan.
        execute: trains one architecture.
        progress: is told what happens.
        stopper: says when to stop.
        queue: the run's queue; made from `store` without it.
        settled: called when the last training's result is told.
        expendable: whether this process may end itself over a training that hangs: another takes its place.
        illustrate: draws a finished training; its pictures become artifacts of the trial.
    """

    def __init__(
        self,
        bench: Workbench,
        store: RunStore,
        phases: Sequence[Phase],
        execute: Executes,
        progress: Progress,
        stopper: Stopper,
        queue: RunQueue | None = None,
        settled: Callable[[], None] | None = None,
        expendable: bool = False,
        illustrate: Illustrate | None = None,
    ) -> None:
        self._bench = bench
        self._illustrate = illustrate
        self._site_rows = [site_row(site) for site in bench.sites]
        self._store = store
        self._phases = {phase.name: phase for phase in phases}
        self._execute = execute
        self._settled, self._expendable = settled, expendable
        self._progress = progress
        self._stopper = stopper
        self._proposer = Proposer(bench, store)
        self.queue = queue or RunQueue(store, bench.phase_labels(), tell=self._proposer.tell)
        self._leader = Leader(bench, store, self._phases, self.queue, progress)
        self._heard = True
        self._pace = Pace(bench.config, phases, bench.epochs)
        self._done: dict[str, int] = {}
        self._hopeful = False
        self._started: set[str] = set()
        self._ill: tuple[float, float] | None = None
        """Since when this machine has failed at every run, and for how long the next pause is."""

    @property
    def total(self) -> int:
        """Trainings of the whole plan."""
        return sum(phase.count for phase in self._phases.values())

    def complete(self) -> bool:
        """Whether a leader has seen every planned training finished."""
        return bool(self._store.attribute("finished", -1) == self.total)

    def work(self, *, lead: bool) -> bool:
        """Train until the plan is done (True) or the stopper says stop (False).

        Args:
            lead: also take the steps from phase to phase. More than one leader does no harm.
        """
        if lead:
            self.lead()
        self._count()
        while not self._stopper.wanted:
            if self.spent():
                self._stopper.spent = True
            elif not self.step(lead=lead):
                if self.complete():
                    return True
                time.sleep(IDLE)
        return False

    def step(self, *, lead: bool) -> bool:
        """Train one run, after leading where none waits; False where there is none to train now."""
        claim = self.queue.claim(ORDER)
        if claim is None and lead and self._leader.lead():
            claim = self.queue.claim(ORDER)
        if claim is not None:
            self._train(claim)
        return claim is not None

    def lead(self) -> bool:
        """See `Leader.lead`."""
        return self._leader.lead()

    def spent(self) -> bool:
        """Whether the study's trainings have taken the device hours that it may take."""
        hours = self._bench.config.gpu_hours
        if hours is None:
            return False
        seconds = sum(
            record.seconds for phase in self._phases for record in self.queue.finished(phase).values()
        )
        return seconds >= 3600 * hours

    def _count(self) -> None:
        self._done = {name: len(self.queue.finished(name)) for name in self._phases}

    def _train(self, claim: Claim) -> None:
        with training(claim.run.key):
            log.info("begins")
            self._train_claimed(claim)

    def _train_claimed(self, claim: Claim) -> None:
        phase = claim.run.phase
        if phase not in self._started:
            self._started.add(phase)
            self._progress.phase_started(phase, self._phases[phase].count)
        self._progress.trial_started(claim.run.key, phase, sum(self._done.values()), self.total)
        began = time.perf_counter()
        try:
            with together(self._store.storage):
                self.queue.beat(claim, 0)
                architecture = self._proposer.propose(claim)
            dog = Watchdog(self._limit, self._last_words(claim, architecture))
            self._heard = False
            with self._beating(claim), self._stopper.training(), dog:
                asked = time.perf_counter()
                record = self._execute(claim.run, architecture, self._on_epoch(claim, dog))
        except (Stopped, KeyboardInterrupt, HungError) as stop:
            log.warning("ends early and is given back: %s", type(stop).__name__)
            if not claim.lost:
                self.queue.give_back(claim)
            return
        except DeviceLostError as error:
            log.error("lost with its device: %s", error)
            self.queue.give_back(claim, f"lost with its device: {error}")
            raise
        except AwayError:
            self.queue.abandon(claim)
            raise
        except BaseException as error:
            fault = machine_fault(error)
            log.error("its %s failed: %s", "worker" if fault is None else "machine", fault or error)
            self.queue.give_back(
                claim, "its worker failed" if fault is None else f"its machine failed: {fault}"
            )
            if fault is None:
                raise
            self._recover(fault)
            return
        self._ill = None
        if record.state == "rejected" and claim.rejections < MOST_REJECTIONS:
            self.queue.reject(claim, self._proposer.tell(record), record.reason)
            return
        drawing = time.perf_counter()
        pictures = self._pictures(record)
        beside = asked - began + time.perf_counter() - drawing
        record = replace(record, number=claim.number, overhead_seconds=record.overhead_seconds + beside)
        result = self._proposer.tell(record)
        self._proposer.after_trial(claim, result)
        good = record.state in ("complete", "pruned")
        shown = (
            "no value"
            if record.accuracy is None
            else f"{self._bench.metric.shown(record.accuracy)} of {record.accuracy_part} {self._bench.metric.counted}"
        )
        log.log(
            logging.INFO if good else logging.WARNING,
            "%s, %s, %.1f s%s",
            record.state,
            shown,
            record.seconds,
            f": {record.reason}" if record.reason else "",
        )
        if self.queue.finish(claim, record, result, pictures):
            self._done[phase] = self._done.get(phase, 0) + 1
            self._progress.trial_finished(record, sum(self._done.values()), self.total)
            if self._done[phase] >= self._phases[phase].count:
                self._progress.phase_finished(phase)
        if self._settled is not None:
            self._settled()
        self._hopeful = self._hopeful or record.state not in ("failed", "diverged")
        if not self._hopeful:
            self._leader.check_hope()

    def _recover(self, fault: str) -> None:
        """Leave the machine some time before it is given another run. Raises MachineError where that does not help."""
        now = time.monotonic()
        began, wait = self._ill or (now, FIRST_WAIT)
        if now - began > PATIENCE:
            raise MachineError(
                f"{fault}, for {now - began:.0f} s; what is finished is kept. Repeat the command when that is mended"
            )
        _log.warning("a training was given back (%s); the next begins in %.1f s", fault, wait)
        self._ill = began, min(2 * wait, LONGEST_WAIT)
        pause(wait, lambda: self._stopper.wanted)

    def _limit(self) -> float | None:
        """Seconds that an epoch may take. A training of the user's own may report none: then only as it was asked."""
        if self._bench.own is not None and not self._heard:
            return self._bench.config.hang_after
        return self._pace.limit()

    def _last_words(self, claim: Claim, architecture: Architecture) -> Callable[[str], None] | None:
        """Tells that a training hangs, where another process takes this one's place."""
        if not self._expendable:
            return None

        def tell(reason: str) -> None:
            run, shape = claim.run, architecture.to_dict()
            record = run.failure(claim.number, f"HungError: {reason}", shape, run.parameters)
            self.queue.finish(claim, record, self._proposer.tell(record))

        return tell

    def _pictures(self, record: TrialRecord) -> dict[str, str]:
        """The attributes that name the training's pictures, which lie in the run folder by now."""
        if self._illustrate is None:
            return {}
        own = record.architecture.get("backbone")
        variant = next((spec for spec in self._bench.variants if spec.to_dict() == own), None)
        rows = self._site_rows
        if variant is not None:  # of another width
            rows = [site_row(site) for site in self._bench.traced(variant)[1].sites]
        return picture_attributes(self._illustrate, record, rows, self._bench.config.folder)

    def _on_epoch(self, claim: Claim, dog: Watchdog) -> Callable[[int, Mapping[str, float]], None]:
        searching = claim.run.phase == "search"
        epochs = search_epochs(self._bench) if searching else self._bench.epochs

        def on_epoch(epoch: int, metrics: Mapping[str, float]) -> None:
            self._heard = True
            self._pace.epoch(dog.moved())
            self._progress.epoch(claim.run.key, epoch, epochs, metrics)
            if claim.lost or (self._stopper.wanted and epoch < epochs):
                raise Stopped
            if epoch < epochs and self._proposer.is_hopeless(claim, epoch, metrics):
                raise Pruned

        return on_epoch

    @contextmanager
    def _beating(self, claim: Claim) -> Iterator[None]:
        """Signs of life from a thread of their own, which looks after others' too; a training shorter than `BEAT`
        costs none.
        """
        over = threading.Event()

        def beat() -> None:
            count = 0
            while not over.wait(BEAT) and not claim.lost:
                count += 1
                try:
                    self.queue.beat(claim, count)
                    self.queue.reap()
                except Exception:  # an unreachable storage is the main thread's affair; it beats again
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
    """Train in this process what the study's queue holds; whether the study is complete.

    Raises:
        StudyError: no such study, or it differs from what this process would train.
    """
    torch.set_num_threads(config.threads or threads_each(config.processes))
    settle_numerics(deterministic=config.deterministic)
    store = find_store(config, patience=300)
    if store is None:
        raise StudyError(f"there is no study {config.study_name!r} to join; `reborn-nas search` begins it")
    bench = make_workbench(config, device, proofs=store.attribute("proofs"))
    check_same(store, bench)
    for spec in bench.code:
        remember_code(spec)
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
