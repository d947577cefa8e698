"""Who holds a run, and how others see that the holder is gone. No clock of one machine is compared with another's."""

from __future__ import annotations

import functools
import os
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["BEAT", "LEASE", "LeaseWatch", "identity"]

BEAT = 10.0
"""Seconds between two signs of life of a run's holder."""

LEASE = 45.0
"""Seconds without a sign of life after which a run is taken from its holder."""


@functools.cache
def _host() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id")
    mark = boot.read_text().strip() if boot.is_file() else f"{uuid.getnode():x}"
    # containers share the boot id and may share pids: the pid namespace tells them apart
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return f"{socket.gethostname()}/{mark}/{namespace}"


def _looked_up(pid: int) -> tuple[str, str]:
    """A process's state, as in `ps`, and when it started, as the kernel counts it; "" each where it is not told."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", ""
    return fields[0], fields[19]


def _started(pid: int) -> str:
    """When process `pid` started; "" where it is not told or the process is a zombie."""
    state, started = _looked_up(pid)
    return "" if state in ("Z", "X") else started


def _is_stopped(pid: int) -> bool:
    """Whether somebody stopped the process: Ctrl-Z, SIGSTOP, a debugger."""
    return _looked_up(pid)[0] in ("T", "t")


def identity() -> dict[str, Any]:
    """This process, so that others on the same host can see whether it lives."""
    pid = os.getpid()
    return {"host": _host(), "pid": pid, "started": _started(pid)}


def is_here(lease: Mapping[str, Any] | None) -> bool:
    """Whether the holder is, or was, a process that this one could see."""
    return bool(lease) and lease is not None and lease.get("host") == _host()


def lives(lease: Mapping[str, Any] | None) -> bool:
    """Whether the holder, a process on this host, is seen to be there, be it running or stopped."""
    pid, started = (None, None) if lease is None else (lease.get("pid"), lease.get("started"))
    return isinstance(pid, int) and bool(started) and _started(pid) == str(started)


def is_own(lease: Mapping[str, Any] | None) -> bool:
    """Whether this very process is the holder."""
    return (
        bool(lease)
        and lease is not None
        and all(lease.get(key) == value for key, value in identity().items())
    )


class LeaseWatch:
    """Tells which leases have ended, from what it sees itself.

    On the holder's own host the process is looked up. Elsewhere, and where that process is stopped, a lease has ended
    when its beat has not changed for `lease` seconds of this process's monotonic clock, throughout which this process
    has looked: while nobody could reach the storage, nobody's lease ends.
    """

    def __init__(self, lease: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease = LEASE if lease is None else lease
        self._clock = clock
        self._seen: dict[int, tuple[Any, float]] = {}
        self._looked: dict[int, float] = {}

    def ended(self, trial_id: int, lease: Mapping[str, Any] | None) -> bool:
        """Whether the holder of the running trial is gone. `lease` is what it last wrote, None for nothing."""
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
