"""The attempts at a study's runs, sorted by key, and the lease of each: whether its holder is still alive.

Clocks of different machines are never compared.
"""

from __future__ import annotations

import functools
import os
import socket
import time
import uuid
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from optuna.trial import TrialState

from reborn_nas.records import TrialRecord
from reborn_nas.study.store.compat import trial_id

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

__all__ = [
    "Attempts",
    "BEAT",
    "AttemptCounts",
    "LEASE",
    "LeaseWatch",
    "REJECTED",
    "RESUMED",
    "count_losses",
    "identity",
    "is_final",
    "is_live",
    "is_rejected",
]

REJECTED = "rejected"
"""Prefix of the reason why an attempt ended whose proposal was over budget."""


RESUMED = "resumed_epochs"
"""Attribute of an attempt that has got further than the saved state that it went on from: the epochs of that state."""


class AttemptCounts(NamedTuple):
    """Numbers of attempts that wait for a worker, are held by one, and have ended."""

    waiting: int
    running: int
    ended: int


class Attempts:
    """One study's attempts by key. Keys and results never change, so each is read only once."""

    def __init__(self, void: Container[int]) -> None:
        self._void = void
        self._numbers: dict[str, list[int]] = {}
        self._known = 0
        self._trials: Sequence[FrozenTrial] = ()
        self._records: dict[int, TrialRecord] = {}

    def renew(self, trials: Sequence[FrozenTrial]) -> None:
        """Update from all trials of the study, in the order of their numbers."""
        for trial in trials[self._known :]:
            if "key" in trial.user_attrs and trial_id(trial) not in self._void:
                self._numbers.setdefault(trial.user_attrs["key"], []).append(trial.number)
        self._known = len(trials)
        self._trials = trials

    def attempts(self, key: str) -> list[FrozenTrial]:
        """The attempts at one run, oldest first."""
        return [self._trials[number] for number in self._numbers.get(key, ())]

    def waiting(self) -> list[FrozenTrial]:
        """Attempts that no worker holds, in the order of their numbers."""
        return [
            trial
            for trial in self._trials
            if trial.state == TrialState.WAITING and trial_id(trial) not in self._void
        ]

    def finished(self, phase: str) -> Iterator[tuple[str, FrozenTrial]]:
        """Key and trial of the runs of `phase` that have a result; the first of two."""
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
    """How often the run took its worker down, as far as can be told, since an attempt last got further than all before.

    A run that goes on from a saved state and gets further each time is interrupted by something else than itself.
    """
    losses, furthest = 0.0, 0
    for trial in attempts:
        epochs = trial.user_attrs.get(RESUMED, 0)
        if isinstance(epochs, int) and epochs > furthest:
            losses, furthest = 0.0, epochs
        reason = str(trial.user_attrs.get("ended", ""))
        losses += reason.startswith("lost") + reason.startswith("silent") / 4
    return losses


def is_live(trial: FrozenTrial) -> bool:
    return not trial.state.is_finished()


def is_rejected(trial: FrozenTrial) -> bool:
    """Whether the attempt ended before training because its proposal was over budget."""
    return str(trial.user_attrs.get("ended", "")).startswith(REJECTED)


def is_final(trial: FrozenTrial) -> bool:
    return trial.state.is_finished() and "record" in trial.user_attrs


BEAT = 10.0
"""Seconds between two heartbeats of a run's holder."""

LEASE = 45.0
"""Seconds without a heartbeat after which a run is taken from its holder."""


@functools.cache
def _host() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id")
    mark = boot.read_text().strip() if boot.is_file() else f"{uuid.getnode():x}"
    # containers share the boot id and may share pids: the pid namespace distinguishes them
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return f"{socket.gethostname()}/{mark}/{namespace}"


def _looked_up(pid: int) -> tuple[str, str]:
    """State of a process, as in `ps`, and its start time in the kernel's units; each "" if unknown."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", ""
    return fields[0], fields[19]


def _started(pid: int) -> str:
    """When process `pid` started; "" if unknown or if the process is a zombie."""
    state, started = _looked_up(pid)
    return "" if state in ("Z", "X") else started


def _is_stopped(pid: int) -> bool:
    """Whether the process is stopped, by Ctrl-Z, SIGSTOP or a debugger."""
    return _looked_up(pid)[0] in ("T", "t")


def identity() -> dict[str, Any]:
    """Identity of this process, by which others on the same host can check whether it is alive."""
    pid = os.getpid()
    return {"host": _host(), "pid": pid, "started": _started(pid)}


def is_here(lease: Mapping[str, Any] | None) -> bool:
    """Whether the holder is, or was, a process visible to this one."""
    return bool(lease) and lease is not None and lease.get("host") == _host()


def lives(lease: Mapping[str, Any] | None) -> bool:
    """Whether the holder, a process on this host, is alive, running or stopped."""
    pid, started = (None, None) if lease is None else (lease.get("pid"), lease.get("started"))
    return isinstance(pid, int) and bool(started) and _started(pid) == str(started)


def is_own(lease: Mapping[str, Any] | None) -> bool:
    """Whether this process is the holder."""
    return (
        bool(lease)
        and lease is not None
        and all(lease.get(key) == value for key, value in identity().items())
    )


class LeaseWatch:
    """Decides which leases have expired, from what this process observes.

    A holder on the same host is looked up by its process id. Elsewhere, and if that process is stopped, a lease has
    expired when its heartbeat has not changed for `lease` seconds of this process's monotonic clock, provided that this
    process kept looking: while the storage is unreachable, no lease expires.
    """

    def __init__(self, lease: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease = LEASE if lease is None else lease
        self._clock = clock
        self._seen: dict[int, tuple[Any, float]] = {}
        self._looked: dict[int, float] = {}

    def ended(self, trial_id: int, lease: Mapping[str, Any] | None) -> bool:
        """Whether the holder of the running trial is gone. `lease` is what it last wrote, None if nothing."""
        if lease and is_here(lease):
            pid = lease.get("pid")
            if isinstance(pid, int) and lease.get("started"):
                if not lives(lease):
                    return True
                if not _is_stopped(pid):
                    return False
        beat = None if lease is None else (lease.get("pid"), lease.get("beat"))
        now = self._clock()
        seen = self._seen.get(trial_id)
        looked = self._looked.get(trial_id, now)
        self._looked[trial_id] = now
        if seen is None or seen[0] != beat or now - looked > self._lease / 2:
            self._seen[trial_id] = (beat, now)
            return False
        return now - seen[1] > self._lease
