"""What a running study tells whoever watches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from reborn_nas.records import TrialRecord
    from reborn_nas.study.setup.planning import PlanView

__all__ = ["AfterPhase", "Progress", "SilentProgress"]


class Progress(Protocol):
    """Called from the process that was asked to search, in the order of events."""

    def plan(self, view: PlanView) -> None:
        """The plan stands; training begins."""

    def phase_started(self, name: str, count: int) -> None:
        """The first training of a phase of `count` begins."""

    def trial_started(self, key: str, phase: str, done: int, total: int) -> None:
        """A training begins; `done` of `total` have a result."""

    def epoch(self, key: str, epoch: int, epochs: int, metrics: Mapping[str, float]) -> None:
        """Epoch `epoch` (from 1) of `epochs` is over."""

    def trial_finished(self, record: TrialRecord, done: int, total: int) -> None:
        """A training has its result, whatever its state."""

    def phase_finished(self, name: str) -> None:
        """All trainings of a phase have a result."""

    def note(self, text: str) -> None:
        """Something the user should know."""


class SilentProgress:
    """Says nothing; a base class for those who want some of it."""

    def plan(self, view: PlanView) -> None:
        """See `Progress`."""

    def phase_started(self, name: str, count: int) -> None:
        """See `Progress`."""

    def trial_started(self, key: str, phase: str, done: int, total: int) -> None:
        """See `Progress`."""

    def epoch(self, key: str, epoch: int, epochs: int, metrics: Mapping[str, float]) -> None:
        """See `Progress`."""

    def trial_finished(self, record: TrialRecord, done: int, total: int) -> None:
        """See `Progress`."""

    def phase_finished(self, name: str) -> None:
        """See `Progress`."""

    def note(self, text: str) -> None:
        """See `Progress`."""


class AfterPhase(SilentProgress):
    """Passes all on to another watcher and calls `then` after each phase; a failure of that stops nothing."""

    def __init__(self, watcher: Progress, then: Callable[[], None]) -> None:
        self._watcher = watcher
        self._then = then

    def plan(self, view: PlanView) -> None:
        """See `Progress`."""
        self._watcher.plan(view)

    def phase_started(self, name: str, count: int) -> None:
        """See `Progress`."""
        self._watcher.phase_started(name, count)

    def trial_started(self, key: str, phase: str, done: int, total: int) -> None:
        """See `Progress`."""
        self._watcher.trial_started(key, phase, done, total)

    def epoch(self, key: str, epoch: int, epochs: int, metrics: Mapping[str, float]) -> None:
        """See `Progress`."""
        self._watcher.epoch(key, epoch, epochs, metrics)

    def trial_finished(self, record: TrialRecord, done: int, total: int) -> None:
        """See `Progress`."""
        self._watcher.trial_finished(record, done, total)

    def phase_finished(self, name: str) -> None:
        """See `Progress`."""
        self._watcher.phase_finished(name)
        with suppress(Exception):
            self._then()

    def note(self, text: str) -> None:
        """See `Progress`."""
        self._watcher.note(text)
