"""Runs handed out exactly once: enqueue, claim, finish, give back, reap.

A run is named by its key. Each attempt at it is an Optuna trial of its own, WAITING until somebody claims it, and
that trial's id is the fencing token: storages let a trial be finished once only, so whoever was cut off and
comes back finds its trial finished, and its result is dropped. The run then has a later attempt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from reborn_nas.records import TrialRecord
from reborn_nas.study.journal import together
from reborn_nas.study.lease import LeaseWatch, identity

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

    from reborn_nas.study.storage import RunStore

__all__ = ["Claim", "Run", "RunQueue"]

MOST_LOSSES = 5
"""A run whose holder vanished so often is told as failed: it takes its process down with it."""


@dataclass(frozen=True)
class Run:
    """One training to be done, as plain data.

    Args:
        key: unique in the study and stable over resumes, such as `screen/17`.
        phase: one of `records.PHASES`.
        arm: what it stands for in its phase.
        seed: of initialisation, order and augmentation.
        block: index of the train/validation split.
        part: the images that judge it: "validation", "reserve" or "test".
        architecture: `Architecture.to_dict()`; None where the sampler proposes.
        parameters: Optuna parameters, name → label.
        levels: two-level coding of a designed run, factor → 0 or 1.
    """

    key: str
    phase: str
    arm: str
    seed: int
    block: int = 0
    part: str = "validation"
    architecture: Mapping[str, Any] | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    levels: Mapping[str, int] = field(default_factory=dict)

    def to_attributes(self) -> dict[str, Any]:
        """User attributes of the trial: everything but the parameters."""
        attributes: dict[str, Any] = {
            "key": self.key,
            "phase": self.phase,
            "arm": self.arm,
            "seed": self.seed,
            "block": self.block,
            "part": self.part,
        }
        if self.architecture is not None:
            attributes["architecture"] = dict(self.architecture)
        if self.levels:
            attributes["levels"] = dict(self.levels)
        return attributes

    @classmethod
    def from_trial(cls, trial: FrozenTrial) -> Run:
        """The run that `trial` is an attempt at."""
        attributes = trial.user_attrs
        return cls(
            key=attributes["key"],
            phase=attributes["phase"],
            arm=attributes["arm"],
            seed=attributes["seed"],
            block=attributes["block"],
            part=attributes["part"],
            architecture=attributes.get("architecture"),
            parameters=dict(trial.params),
            levels=attributes.get("levels", {}),
        )


@dataclass
class Claim:
    """A run that this process holds, and the trial that is its token."""

    run: Run
    trial_id: int
    number: int
    attempt: int
    lost: bool = False
    """Set when the storage says that the trial is no longer ours."""


class RunQueue:
    """The runs of one store, as one worker sees them.

    Args:
        store: the run's studies.
        labels: phase → parameter name → all labels it may ever have there (Optuna's choice lists never change).
        watch: tells which leases have ended.
    """

    def __init__(
        self,
        store: RunStore,
        labels: Mapping[str, Mapping[str, Sequence[str]]],
        watch: LeaseWatch | None = None,
    ) -> None:
        self._store = store
        self._labels = labels
        self._watch = watch or LeaseWatch()
        self._held: set[int] = set()

    def enqueue(self, runs: Iterable[Run]) -> int:
        """Put every run in that has neither a result nor a live attempt; returns how many those are."""
        from optuna.trial import TrialState, create_trial

        new: dict[Study, list[FrozenTrial]] = {}
        views: dict[str, dict[str, list[FrozenTrial]]] = {}
        for run in runs:
            study = self._store.study(run.phase)
            attempts = views.setdefault(study.study_name, self._attempts(run.phase)).get(run.key, [])
            if any(_live(trial) or _final(trial) for trial in attempts):
                continue
            losses = sum("lost" in trial.user_attrs.get("ended", "") for trial in attempts)
            attributes = {**run.to_attributes(), "attempt": len(attempts)}
            if losses >= MOST_LOSSES:
                self._give_up(run, attempts[-1], attributes)
                continue
            known = next((trial.params for trial in reversed(attempts) if trial.params), None)
            parameters = dict(known or run.parameters)
            template = create_trial(state=TrialState.WAITING, user_attrs=attributes)
            if run.architecture is None:  # the sampler's study: `suggest` must find them fixed, not there
                template.system_attrs = {"fixed_params": parameters} if parameters else {}
            else:
                template.params = parameters
                template.distributions = self._distributions(run.phase, parameters)
            new.setdefault(study, []).append(template)
        for study, templates in new.items():
            with together(self._store.storage):
                study.add_trials(templates)
        return sum(len(templates) for templates in new.values())

    def claim(self, phases: Sequence[str]) -> Claim | None:
        """The next waiting run of `phases`, now held by this process; None where none waits.

        The caller then writes the first sign of life, together with what it knows of the run.
        """
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        storage = self._store.storage
        for study in dict.fromkeys(self._store.study(phase) for phase in phases):
            waiting = storage.get_all_trials(study._study_id, deepcopy=False, states=(TrialState.WAITING,))
            known = [trial for trial in waiting if trial.user_attrs.get("phase") in phases]
            for trial in sorted(known, key=lambda trial: _place(trial, phases)):
                try:
                    if not storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING):
                        continue
                except UpdateFinishedTrialError:
                    continue
                run = Run.from_trial(trial)
                claim = Claim(run, trial._trial_id, trial.number, trial.user_attrs.get("attempt", 0))
                if self._is_double(claim):
                    self._end(claim.trial_id, "a second attempt at a run that is held or done")
                    continue
                self._held.add(claim.trial_id)
                return claim
        return None

    def beat(self, claim: Claim, count: int) -> bool:
        """Write a sign of life. False when the run is no longer held, which `claim.lost` then says too."""
        from optuna.exceptions import UpdateFinishedTrialError

        try:
            self._store.storage.set_trial_user_attr(claim.trial_id, "lease", {**identity(), "beat": count})
        except UpdateFinishedTrialError:
            claim.lost = True
        return not claim.lost

    def finish(self, claim: Claim, record: TrialRecord, told: Told) -> bool:
        """Tell the result, once. False where somebody else has ended the trial: then the result is dropped."""
        from optuna.exceptions import UpdateFinishedTrialError

        storage = self._store.storage
        try:
            # first the record, then the state: a trial that dies in between is finished by the reaper from its record
            with together(storage):
                for key, value in told.attributes.items():
                    storage.set_trial_user_attr(claim.trial_id, key, value)
                storage.set_trial_user_attr(
                    claim.trial_id, "record", {**record.to_dict(), "told": told.to_dict()}
                )
                self._tell(claim.trial_id, told)
            return True
        except UpdateFinishedTrialError:
            claim.lost = True
            return False
        finally:
            self._held.discard(claim.trial_id)

    def give_back(self, claim: Claim, reason: str = "interrupted") -> None:
        """End an attempt without a result; the run will have another one."""
        self._held.discard(claim.trial_id)
        self._end(claim.trial_id, reason)

    def reap(self) -> int:
        """End the attempts whose holders are gone; returns their number. `enqueue` then adds new attempts."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        reaped = 0
        for study in self._store.studies():
            running = self._store.storage.get_all_trials(
                study._study_id, deepcopy=False, states=(TrialState.RUNNING,)
            )
            for trial in running:
                if trial._trial_id in self._held or "key" not in trial.user_attrs:
                    continue
                if not self._watch.ended(trial._trial_id, trial.user_attrs.get("lease")):
                    continue
                record = trial.user_attrs.get("record")
                try:
                    if record is not None:
                        # its worker died between the record and the state
                        self._tell(trial._trial_id, Told.from_dict(record["told"]))
                    else:
                        self._end(trial._trial_id, "lost: its worker is gone")
                except UpdateFinishedTrialError:
                    continue
                reaped += 1
        return reaped

    def finished(self, phase: str) -> dict[str, TrialRecord]:
        """Key → record of the runs of `phase` that have a result; of two the first."""
        found: dict[str, TrialRecord] = {}
        for key, attempts in self._attempts(phase).items():
            for trial in attempts:
                if _final(trial) and trial.user_attrs.get("phase") == phase:
                    found[key] = TrialRecord.from_dict({**trial.user_attrs["record"], "number": trial.number})
                    break
        return found

    def running(self) -> int:
        """Attempts that somebody holds, this process included."""
        from optuna.trial import TrialState

        return sum(
            len(
                self._store.storage.get_all_trials(
                    study._study_id, deepcopy=False, states=(TrialState.RUNNING,)
                )
            )
            for study in self._store.studies()
        )

    def _attempts(self, phase: str) -> dict[str, list[FrozenTrial]]:
        study = self._store.study(phase)
        found: dict[str, list[FrozenTrial]] = {}
        for trial in self._store.storage.get_all_trials(study._study_id, deepcopy=False):
            if "key" in trial.user_attrs:
                found.setdefault(trial.user_attrs["key"], []).append(trial)
        return found

    def _is_double(self, claim: Claim) -> bool:
        """Whether another attempt at the same run has a result, or is live and came first."""
        return any(
            trial._trial_id != claim.trial_id
            and (_final(trial) or (_live(trial) and trial.number < claim.number))
            for trial in self._attempts(claim.run.phase).get(claim.run.key, [])
        )

    def _distributions(self, phase: str, parameters: Mapping[str, str]) -> dict[str, Any]:
        from optuna.distributions import CategoricalDistribution

        return {name: CategoricalDistribution(tuple(self._labels[phase][name])) for name in parameters}

    def _tell(self, trial_id: int, told: Told) -> None:
        from optuna.trial import TrialState

        for key, value in told.constraints.items():
            self._store.storage.set_trial_system_attr(trial_id, f"constraints:{key}", value)
        values = None if told.value is None else [told.value]
        self._store.storage.set_trial_state_values(trial_id, TrialState[told.state], values)

    def _end(self, trial_id: int, reason: str) -> None:
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        try:
            with together(self._store.storage):
                self._store.storage.set_trial_user_attr(trial_id, "ended", reason)
                self._store.storage.set_trial_state_values(trial_id, TrialState.FAIL)
        except UpdateFinishedTrialError:
            return

    def _give_up(self, run: Run, last: FrozenTrial, attributes: Mapping[str, Any]) -> None:
        """A run that took its worker down `MOST_LOSSES` times gets its record: failed."""
        from optuna.trial import TrialState, create_trial

        reason = f"its worker died {MOST_LOSSES} times while training it"
        record = TrialRecord(
            key=run.key,
            phase=run.phase,
            arm=run.arm,
            number=last.number,
            state="failed",
            architecture=run.architecture or {},
            parameters=dict(last.params or run.parameters),
            levels=dict(run.levels),
            block=run.block,
            seed=run.seed,
            accuracy_part=run.part,
            reason=reason,
        )
        told = Told("FAIL")
        self._store.study(run.phase).add_trial(
            create_trial(
                state=TrialState.FAIL,
                user_attrs={**attributes, "record": {**record.to_dict(), "told": told.to_dict()}},
            )
        )


@dataclass(frozen=True)
class Told:
    """How a result is told to Optuna: so that the sampler at hand learns from it.

    Args:
        state: COMPLETE, PRUNED or FAIL.
        value: the objective's value where the state is COMPLETE.
        constraints: name → violation, above 0 where infeasible.
        attributes: further user attributes, small.
    """

    state: str
    value: float | None = None
    constraints: Mapping[str, float] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """What a reaper needs to tell it in the worker's place."""
        return {"state": self.state, "value": self.value, "constraints": dict(self.constraints)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Told:
        """The inverse of `to_dict`."""
        return cls(data["state"], data.get("value"), data.get("constraints", {}))


def _place(trial: FrozenTrial, phases: Sequence[str]) -> tuple[int, int, int]:
    """Where a waiting trial stands: by phase, then in the plan's order, a second attempt in the first one's place."""
    last = trial.user_attrs["key"].rpartition("/")[2]
    return phases.index(trial.user_attrs["phase"]), int(last) if last.isdigit() else 0, trial.number


def _live(trial: FrozenTrial) -> bool:
    return not trial.state.is_finished()


def _final(trial: FrozenTrial) -> bool:
    return trial.state.is_finished() and "record" in trial.user_attrs
