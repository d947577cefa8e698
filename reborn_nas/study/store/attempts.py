"""The attempts at a study's runs, sorted by key as they come in."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from reborn_nas.records import TrialRecord

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

__all__ = ["REJECTED", "Attempts", "Census", "count_losses", "is_final", "is_live", "is_rejected"]

REJECTED = "rejected"
"""How the reason begins for which an attempt ended that was over budget."""


class Census(NamedTuple):
    """How many attempts wait for a worker, are held by one, and have ended."""

    waiting: int
    running: int
    ended: int


class Attempts:
    """One study's attempts by key. Keys and results never change, so that each is read once."""

    def __init__(self, void: Container[int]) -> None:
        self._void = void
        self._numbers: dict[str, list[int]] = {}
        self._known = 0
        self._trials: Sequence[FrozenTrial] = ()
        self._records: dict[int, TrialRecord] = {}

    def renew(self, trials: Sequence[FrozenTrial]) -> None:
        """Take in all the study's trials, in the order of their numbers."""
        for trial in trials[self._known :]:
            if "key" in trial.user_attrs and trial._trial_id not in self._void:
                self._numbers.setdefault(trial.user_attrs["key"], []).append(trial.number)
        self._known = len(trials)
        self._trials = trials

    def attempts(self, key: str) -> list[FrozenTrial]:
        """The attempts at one run, the first one's first."""
        return [self._trials[number] for number in self._numbers.get(key, ())]

    def waiting(self) -> list[FrozenTrial]:
        """Attempts that nobody holds, in the order of their numbers."""
        from optuna.trial import TrialState

        return [
            trial
            for trial in self._trials
            if trial.state == TrialState.WAITING and trial._trial_id not in self._void
        ]

    def finished(self, phase: str) -> Iterator[tuple[str, FrozenTrial]]:
        """Key and trial of the runs of `phase` that have a result; of two the first."""
        for key, numbers in self._numbers.items():
            for number in numbers:
                trial = self._trials[number]
                if is_final(trial) and trial.user_attrs.get("phase") == phase:
                    yield key, trial
                    break

    def record(self, trial: FrozenTrial) -> TrialRecord:
        """The record of a finished attempt."""
        if trial.number not in self._records:
            data = {**trial.user_attrs["record"], "number": trial.number}
            self._records[trial.number] = TrialRecord.from_dict(data)
        return self._records[trial.number]


def count_losses(attempts: Sequence[FrozenTrial]) -> float:
    """How often the run took its worker down, as far as that can be told."""
    reasons = [str(trial.user_attrs.get("ended", "")) for trial in attempts]
    return sum(reason.startswith("lost") + reason.startswith("silent") / 4 for reason in reasons)


def is_live(trial: FrozenTrial) -> bool:
    return not trial.state.is_finished()


def is_rejected(trial: FrozenTrial) -> bool:
    """Whether the attempt ended before any training, its proposal over budget."""
    return str(trial.user_attrs.get("ended", "")).startswith(REJECTED)


def is_final(trial: FrozenTrial) -> bool:
    return trial.state.is_finished() and "record" in trial.user_attrs
