"""Runs handed out exactly once: enqueue, claim, finish, give back, reap.

A run is named by its key. Each attempt at it is a separate Optuna trial, WAITING until a worker claims it. That trial's
id is the fencing token: a storage lets a trial be finished only once, so a worker that was cut off and comes back finds
its trial finished, and its result is dropped. The run then has a later attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from optuna.distributions import CategoricalDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import Trial, TrialState, create_trial

from reborn_nas.records import TrialRecord
from reborn_nas.study.plan.designs import Run
from reborn_nas.study.store.attempts import (
    REJECTED,
    RESUMED,
    AttemptCounts,
    Attempts,
    LeaseWatch,
    count_losses,
    identity,
    is_final,
    is_here,
    is_live,
    is_own,
    is_rejected,
    lives,
)
from reborn_nas.study.store.compat import trial_id
from reborn_nas.study.store.journal import together
from reborn_nas.study.store.outcome import TrialOutcome

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

    from reborn_nas.study.store.storage import RunStore

__all__ = ["Claim", "RunQueue"]

MOST_LOSSES = 5
"""A run whose worker died so often without getting further is told as failed: it takes its process down with it."""

DIED, SILENT = "lost: its worker died", "silent: its worker sent no heartbeat"
"""Why an attempt was taken from its holder. A machine may be silent for other reasons: four times count once."""


_queues: WeakSet[RunQueue] = WeakSet()
"""The queues of this process. An attempt in its name that none of them holds is left over from a search that failed."""


@dataclass
class Claim:
    """A run that this process holds, and the trial that is its fencing token."""

    run: Run
    trial_id: int
    number: int
    attempt: int
    lost: bool = False
    """Set when the storage reports that the trial is no longer ours."""
    rejections: int = 0
    """Earlier proposals for this run that were over budget."""


class RunQueue:
    """The runs of one store, as one worker sees them.

    Args:
        store: the run's studies.
        labels: phase → parameter name → all labels it may have there (Optuna's choices never change).
        watch: decides which leases have expired.
        outcome: how the failure of a run that takes its workers down is stored.
    """

    def __init__(
        self,
        store: RunStore,
        labels: Mapping[str, Mapping[str, Sequence[str]]],
        watch: LeaseWatch | None = None,
        outcome: Callable[[TrialRecord], TrialOutcome] | None = None,
    ) -> None:
        self._store = store
        self._labels = labels
        self.watch = watch or LeaseWatch()
        self._outcome = outcome or (lambda record: TrialOutcome("FAIL"))
        self._held: set[int] = set()
        _queues.add(self)
        self._indices: dict[str, Attempts] = {}

    def enqueue(self, runs: Iterable[Run], most: int | None = None) -> int:
        """Enqueue the first runs, at most `most`, that have neither a result nor a live attempt; returns their number.

        A long plan is enqueued in small batches: a database sends every waiting trial to every worker at every poll.
        """
        new: list[Callable[[], None]] = []
        views: dict[str, Attempts] = {}
        left = most if most is not None else -1
        for run in runs:
            if left == 0:
                break
            study = self._store.study(run.phase)
            if study.study_name not in views:
                views[study.study_name] = self._index(run.phase)
            attempts = views[study.study_name].attempts(run.key)
            if any(is_live(trial) or is_final(trial) for trial in attempts):
                continue
            left -= 1
            losses = count_losses(attempts)
            attributes = {**run.to_attributes(), "attempt": len(attempts)}
            if losses >= MOST_LOSSES:
                self._give_up(run, attempts[-1], attributes)
                continue
            known = next((t.params for t in reversed(attempts) if t.params and not is_rejected(t)), None)
            parameters = dict(known or run.parameters)
            if run.architecture is None:  # the sampler's study: fix the parameters for `suggest`
                add: Callable[[], None] = partial(study.enqueue_trial, parameters, attributes)
            else:
                template = create_trial(state=TrialState.WAITING, user_attrs=attributes)
                template.params = parameters
                template.distributions = self._distributions(run.phase, parameters)
                add = partial(study.add_trial, template)
            new.append(add)
        with together(self._store.storage):
            for add in new:
                add()
        return len(new)

    def claim(self, phases: Sequence[str]) -> Claim | None:
        """The next waiting run of `phases`, now held by this process; None if none is waiting.

        The caller then writes the first heartbeat, together with what it knows of the run.
        """
        storage = self._store.storage
        for phase in {self._store.study(phase): phase for phase in phases}.values():
            index = self._index(phase)  # read once: a second attempt is visible before the claim too
            waiting = [trial for trial in index.waiting() if trial.user_attrs.get("phase") in phases]
            for trial in sorted(waiting, key=lambda trial: _place(trial, phases)):
                try:
                    if not storage.set_trial_state_values(trial_id(trial), TrialState.RUNNING):
                        continue
                except UpdateFinishedTrialError:
                    continue
                run = Run.from_trial(trial)
                claim = Claim(run, trial_id(trial), trial.number, trial.user_attrs.get("attempt", 0))
                if _is_double(claim, index):
                    self._end(claim.trial_id, "a second attempt at a run that is held or done")
                    continue
                self._held.add(claim.trial_id)
                claim.rejections = sum(map(is_rejected, index.attempts(run.key)))
                return claim
        return None

    def beat(self, claim: Claim, count: int) -> bool:
        """Write a sign of life. False when the run is no longer held, which `claim.lost` then says too."""
        return self._note(claim, "lease", {**identity(), "beat": count})

    def resumed(self, claim: Claim, epochs: int) -> bool:
        """Write that the attempt went on from a state of so many epochs and has got further; False as for `beat`."""
        return self._note(claim, RESUMED, epochs)

    def finish(
        self,
        claim: Claim,
        record: TrialRecord,
        outcome: TrialOutcome,
        artifacts: Mapping[str, str] = MappingProxyType({}),
    ) -> bool:
        """Tell the result, once. False if another process has ended the trial, and the result is dropped.

        Args:
            artifacts: system attributes that name the trial's artifacts.
        """
        storage = self._store.storage
        try:
            # the record before the state: if the worker dies in between, the reaper finishes the trial from its record
            with together(storage):
                for key, value in artifacts.items():
                    storage.set_trial_system_attr(claim.trial_id, key, value)
                for key, value in outcome.attributes.items():
                    storage.set_trial_user_attr(claim.trial_id, key, value)
                storage.set_trial_user_attr(
                    claim.trial_id, "record", {**record.to_dict(), "told": outcome.to_dict()}
                )
                self._tell(self._store.study(claim.run.phase), claim.trial_id, outcome)
            return True
        except UpdateFinishedTrialError:
            claim.lost = True
            return False
        finally:
            self._held.discard(claim.trial_id)

    def reject(self, claim: Claim, outcome: TrialOutcome, reason: str) -> None:
        """End an attempt whose proposal was refused before training; the run gets another proposal at once."""
        storage = self._store.storage
        self._held.discard(claim.trial_id)
        try:
            with together(storage):
                for key, value in outcome.attributes.items():
                    storage.set_trial_user_attr(claim.trial_id, key, value)
                storage.set_trial_user_attr(claim.trial_id, "ended", f"{REJECTED}: {reason}")
                self._tell(self._store.study(claim.run.phase), claim.trial_id, outcome)
        except UpdateFinishedTrialError:
            claim.lost = True
            return
        self.enqueue([replace(claim.run, parameters={})])

    def give_back(self, claim: Claim, reason: str = "interrupted") -> None:
        """End an attempt without a result; the run gets another one."""
        self._held.discard(claim.trial_id)
        self._end(claim.trial_id, reason)

    def abandon(self, claim: Claim) -> None:
        """Stop holding an attempt without writing that to the storage, which does not answer; it is reaped later."""
        self._held.discard(claim.trial_id)

    def counts(self) -> AttemptCounts:
        """Numbers of attempts that wait, run and have ended."""
        counts = dict.fromkeys(TrialState, 0)
        for study in self._store.studies():
            for trial in study.get_trials(deepcopy=False):
                if "key" in trial.user_attrs:
                    counts[trial.state] += 1
        waiting, running = counts[TrialState.WAITING], counts[TrialState.RUNNING]
        return AttemptCounts(waiting, running, sum(counts.values()) - waiting - running)

    def reap(self) -> int:
        """End the attempts whose holders are gone; returns their number. `enqueue` then adds new attempts."""
        reaped = 0
        for study in self._store.studies():
            running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            for trial in running:
                if trial_id(trial) in self._held or "key" not in trial.user_attrs:
                    continue
                lease = trial.user_attrs.get("lease")
                left = is_own(lease) and not any(trial_id(trial) in queue._held for queue in _queues)
                if not left and not self.watch.ended(trial_id(trial), lease):
                    continue
                record = trial.user_attrs.get("record")
                try:
                    if record is not None:
                        # its worker died between the record and the state
                        self._tell(study, trial_id(trial), TrialOutcome.from_dict(record["told"]))
                    else:
                        self._end(trial_id(trial), SILENT if not is_here(lease) or lives(lease) else DIED)
                except UpdateFinishedTrialError:
                    continue
                reaped += 1
        return reaped

    def finished(self, phase: str) -> dict[str, TrialRecord]:
        """Key → record of the runs of `phase` that have a result; the first of two."""
        index = self._index(phase)
        return {key: index.record(trial) for key, trial in index.finished(phase)}

    def done(self, phase: str) -> set[str]:
        """Keys of the runs of `phase` that have a result."""
        return {key for key, _ in self._index(phase).finished(phase)}

    def _index(self, phase: str) -> Attempts:
        """The attempts in the study of `phase` as of now."""
        study = self._store.study(phase)
        index = self._indices.setdefault(study.study_name, Attempts(self._store.void()))
        index.renew(study.get_trials(deepcopy=False))
        return index

    def _note(self, claim: Claim, name: str, value: Any) -> bool:
        try:
            self._store.storage.set_trial_user_attr(claim.trial_id, name, value)
        except UpdateFinishedTrialError:
            claim.lost = True
        return not claim.lost

    def _distributions(self, phase: str, parameters: Mapping[str, str]) -> dict[str, Any]:
        return {name: CategoricalDistribution(tuple(self._labels[phase][name])) for name in parameters}

    def _tell(self, study: Study, identifier: int, outcome: TrialOutcome) -> None:
        storage = self._store.storage
        if outcome.constraints:
            known = storage.get_trial(
                identifier
            ).constraints  # from a worker that died before it told the state
            trial = Trial(study, identifier)
            for name, value in outcome.constraints.items():
                if name not in known:
                    trial.set_constraint(name, value)
        storage.set_trial_state_values(identifier, TrialState[outcome.state], outcome.values)

    def _end(self, identifier: int, reason: str) -> None:
        try:
            with together(self._store.storage):
                self._store.storage.set_trial_user_attr(identifier, "ended", reason)
                self._store.storage.set_trial_state_values(identifier, TrialState.FAIL)
        except UpdateFinishedTrialError:
            return

    def _give_up(self, run: Run, last: FrozenTrial, attributes: Mapping[str, Any]) -> None:
        """A run that took its workers down gets its record, failed, told so that the sampler learns from it."""
        parameters = dict(last.params or run.parameters)
        reason = f"its worker died {MOST_LOSSES} times while training it, and got no further than before"
        record = run.failure(last.number, reason, run.architecture or {}, parameters)
        outcome = self._outcome(record)
        self._store.study(run.phase).add_trial(
            create_trial(
                state=TrialState[outcome.state],
                values=outcome.values,
                params=last.params,
                distributions=last.distributions,
                user_attrs={**attributes, "record": {**record.to_dict(), "told": outcome.to_dict()}},
                constraints=dict(outcome.constraints) or None,
            )
        )


def _is_double(claim: Claim, index: Attempts) -> bool:
    """Whether another attempt at the same run has a result, or is live and older."""
    return any(
        trial_id(trial) != claim.trial_id
        and (is_final(trial) or (is_live(trial) and trial.number < claim.number))
        for trial in index.attempts(claim.run.key)
    )


def _place(trial: FrozenTrial, phases: Sequence[str]) -> tuple[int, int, int]:
    """Position of a waiting trial: by phase, then in the plan's order, a second attempt in place of the first."""
    last = trial.user_attrs["key"].rpartition("/")[2]
    return phases.index(trial.user_attrs["phase"]), int(last) if last.isdigit() else 0, trial.number
