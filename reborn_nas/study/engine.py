"""One worker's loop over a run's queue, and the leader's steps from phase to phase."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from reborn_nas.architecture import Architecture
from reborn_nas.errors import StudyError
from reborn_nas.records import TrialRecord
from reborn_nas.seeds import derive_seed
from reborn_nas.study import designs
from reborn_nas.study.decide import Candidate, decide_candidate, top_factors
from reborn_nas.study.journal import together
from reborn_nas.study.lease import BEAT
from reborn_nas.study.objective import Stopped
from reborn_nas.study.phases import ORDER, Phase
from reborn_nas.study.progress import Progress
from reborn_nas.study.queue import Claim, Run, RunQueue, Told
from reborn_nas.study.samplers import learns_from_pruned, make_sampler
from reborn_nas.study.stopping import Stopper

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from reborn_nas.study.storage import RunStore
    from reborn_nas.study.workbench import Workbench

__all__ = ["Engine", "Executes", "told"]

IDLE = 0.25
"""Seconds between two looks at a queue in which nothing waits."""


class Executes(Protocol):
    """Trains one architecture; `objective.Objective` is one."""

    def __call__(
        self,
        run: Run,
        architecture: Architecture,
        on_epoch: Callable[[int, Mapping[str, float]], None] | None = None,
    ) -> TrialRecord:
        """The record of the training."""


def told(record: TrialRecord, learns_pruned: bool) -> Told:
    """How `record` is told to Optuna, so that the sampler at hand learns from a failure too.

    A designed run that diverged keeps its last accuracy. In the search, a failure is PRUNED with a violated
    constraint, or for samplers that read COMPLETE trials only, COMPLETE with the worst value.
    """
    attributes = {
        "params": record.params,
        "macs": record.macs,
        "seconds": round(record.seconds, 3),
        "digest": record.digest,
    }
    if record.state == "complete" or (record.state == "diverged" and record.phase != "search"):
        return Told("COMPLETE", record.accuracy, attributes=attributes)
    attributes["reason"] = record.reason
    if record.phase != "search":
        return Told("FAIL", attributes=attributes)
    constraints = {record.state: 1.0}
    if learns_pruned:
        return Told("PRUNED", constraints=constraints, attributes=attributes)
    return Told("COMPLETE", 0.0, constraints, attributes)


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
    ) -> None:
        self._bench = bench
        self._store = store
        self._phases = {phase.name: phase for phase in phases}
        self._execute = execute
        self._progress = progress
        self._stopper = stopper
        self.queue = queue or RunQueue(store, bench.phase_labels())
        self._seed = bench.config.seed
        self._screen = designs.screen_runs(self._phases["screen"], bench.contrast, bench.spec, self._seed)
        self._blocks = max([1, *(run.block + 1 for run in self._screen)])
        self._done: dict[str, int] = {}
        self._started: set[str] = set()

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
            claim = self.queue.claim(ORDER)
            if claim is not None:
                self._train(claim)
            elif lead and self.lead():
                continue
            elif self.complete():
                return True
            else:
                time.sleep(IDLE)
        return False

    def lead(self) -> bool:
        """Take up lost runs and enqueue what can be run now; whether anything was enqueued or has ended."""
        self.queue.reap()
        bench = self._bench
        baseline = designs.baseline_runs(
            self._phases["baseline"].count, bench.contrast, bench.spec, self._seed, self._blocks
        )
        opened = [*baseline, *self._screen]
        added = self.queue.enqueue(opened)
        if added or not self._all_done(opened):
            return added > 0
        self._teach_sampler()
        slots = designs.search_runs(self._phases["search"].count, self._seed, self._blocks)
        added = self.queue.enqueue(slots)
        if added or not self._all_done(slots):
            return added > 0
        last = self._later_runs(self.candidate())
        added = self.queue.enqueue(last)
        if added or not self._all_done(last):
            return added > 0
        self._store.keep("finished", self.total)
        return False

    def candidate(self) -> Candidate:
        """The candidate: as decided before if its runs are under way, else from what there is now."""
        kept = self._store.attribute("candidate")
        if kept is not None and kept.get("fixed"):
            return Candidate.from_dict(kept)
        finished = self.queue.finished
        decided = decide_candidate(
            list(finished("screen").values()),
            list(finished("search").values()),
            self._bench.contrast,
            self._bench.spec,
        )
        fixed = any(self._phases[name].count for name in ("candidate", "confirm", "control"))
        self._store.keep("candidate", {**decided.to_dict(), "fixed": fixed})
        self._progress.note(f"candidate: {decided.reason}")
        return decided

    def _later_runs(self, candidate: Candidate) -> list[Run]:
        contrast, incumbent = self._bench.contrast, candidate.architecture
        runs = designs.candidate_runs(self._phases["candidate"].count, incumbent, contrast, self._seed)
        confirm, control = self._phases["confirm"].count, self._phases["control"].count
        if not confirm and not control:
            return runs
        top = self._store.attribute("top")
        if top is None:
            screen = list(self.queue.finished("screen").values())
            top = top_factors(screen, contrast, seed=self._seed % 2**32)
            self._store.keep("top", top)
        if confirm:
            runs += designs.confirm_runs(confirm, incumbent, top, contrast, self._seed)
        if control:
            runs += designs.control_runs(control, incumbent, top, contrast, self._seed)
        return runs

    def _all_done(self, runs: Sequence[Run]) -> bool:
        have: dict[str, set[str]] = {}
        for run in runs:
            if run.phase not in have:
                have[run.phase] = set(self.queue.finished(run.phase))
            if run.key not in have[run.phase]:
                return False
        return True

    def _teach_sampler(self) -> None:
        """Add the screen's runs to the search's study, so that the sampler starts from them."""
        from optuna.distributions import CategoricalDistribution
        from optuna.trial import TrialState, create_trial

        study = self._store.study("search")
        known = {trial.user_attrs.get("copy_of") for trial in study.get_trials(deepcopy=False)}
        copies = []
        spaces = {name: CategoricalDistribution(labels) for name, labels in self._bench.parameters.items()}
        for key, record in self.queue.finished("screen").items():
            parameters = self._as_sampled(record)
            if key in known or parameters is None or record.accuracy is None:
                continue
            copies.append(
                create_trial(
                    state=TrialState.COMPLETE,
                    value=record.accuracy,
                    params=parameters,
                    distributions={name: spaces[name] for name in parameters},
                    user_attrs={
                        "copy_of": key,
                        "phase": "screen",
                        "seed": record.seed,
                        "digest": record.digest,
                    },
                )
            )
        with together(self._store.storage):
            study.add_trials(copies)

    def _as_sampled(self, record: TrialRecord) -> dict[str, str] | None:
        """The screen's parameters in the words of the search space; None where it cannot say them."""
        activation = {site.name: site.activation for site in self._bench.sites}
        found = {}
        for name, labels in self._bench.parameters.items():
            members = self._bench.contrast.factors.get(name, ())
            own = {activation[member] for member in members}
            label = record.parameters.get(name, "original")
            # a space that names the parent's own activation has no "original"
            words = [label, *(word for word in labels if label == "original" and own == {word})]
            fitting = [word for word in words if word in labels]
            if not fitting:
                return None
            found[name] = fitting[0]
        return found

    def _count(self) -> None:
        self._done = {name: len(self.queue.finished(name)) for name in self._phases}

    def _train(self, claim: Claim) -> None:
        phase = claim.run.phase
        if phase not in self._started:
            self._started.add(phase)
            self._progress.phase_started(phase, self._phases[phase].count)
        self._progress.trial_started(claim.run.key, phase, sum(self._done.values()), self.total)
        learns_pruned = True
        began = time.perf_counter()
        try:
            with together(self._store.storage):
                self.queue.beat(claim, 0)
                architecture, sampler = self._architecture(claim)
            learns_pruned = sampler is None or learns_from_pruned(sampler)
            with self._beating(claim), self._stopper.training():
                asked = time.perf_counter()
                record = self._execute(claim.run, architecture, self._on_epoch(claim))
        except (Stopped, KeyboardInterrupt):
            if not claim.lost:
                self.queue.give_back(claim)
            return
        except BaseException:
            self.queue.give_back(claim, "its worker failed")
            raise
        asking = asked - began
        record = replace(record, number=claim.number, overhead_seconds=record.overhead_seconds + asking)
        result = told(record, learns_pruned)
        if sampler is not None:
            self._after_trial(sampler, claim, result)
        if self.queue.finish(claim, record, result):
            self._done[phase] = self._done.get(phase, 0) + 1
            self._progress.trial_finished(record, sum(self._done.values()), self.total)
            if self._done[phase] >= self._phases[phase].count:
                self._progress.phase_finished(phase)

    def _architecture(self, claim: Claim) -> tuple[Architecture, BaseSampler | None]:
        """The designed architecture, or what the sampler proposes for this slot."""
        if claim.run.architecture is not None:
            return Architecture.from_dict(claim.run.architecture), None
        import optuna

        config = self._bench.config
        sampler = make_sampler(config.sampler, derive_seed(self._seed, "sampler", claim.run.key))
        study = optuna.load_study(
            study_name=self._store.study("search").study_name, storage=self._store.storage, sampler=sampler
        )
        try:
            trial = optuna.trial.Trial(study, claim.trial_id)
            architecture = self._bench.space.suggest(trial, self._bench.sites, self._bench.spec)
        except Exception as error:
            raise StudyError(
                f"sampler {config.sampler!r} failed to propose an architecture: {error!r}"
            ) from error
        claim.run = replace(claim.run, parameters=trial.params)
        return architecture, sampler

    def _after_trial(self, sampler: BaseSampler, claim: Claim, result: Told) -> None:
        from optuna.trial import TrialState

        study = self._store.study("search")
        frozen = self._store.storage.get_trial(claim.trial_id)
        values = None if result.value is None else [result.value]
        sampler.after_trial(study, frozen, TrialState[result.state], values)

    def _on_epoch(self, claim: Claim) -> Callable[[int, Mapping[str, float]], None]:
        epochs = int(getattr(self._bench.recipe, "epochs", 0))

        def on_epoch(epoch: int, metrics: Mapping[str, float]) -> None:
            self._progress.epoch(claim.run.key, epoch, epochs, metrics)
            if claim.lost or self._stopper.wanted:
                raise Stopped

        return on_epoch

    @contextmanager
    def _beating(self, claim: Claim) -> Iterator[None]:
        """Signs of life from a thread of their own; a training shorter than `BEAT` costs none."""
        over = threading.Event()

        def beat() -> None:
            count = 0
            while not over.wait(BEAT) and not claim.lost:
                count += 1
                try:
                    self.queue.beat(claim, count)
                except Exception:  # an unreachable storage is the main thread's affair; it beats again
                    continue

        thread = threading.Thread(target=beat, name=f"lease of {claim.run.key}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
