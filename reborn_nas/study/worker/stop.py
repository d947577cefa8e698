"""When to stop: Ctrl-C, a termination signal, a time limit, a training that hangs. Finished trainings are kept."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from reborn_nas.errors import TrainingError, is_pausing
from reborn_nas.study.store.patience import is_asking, is_waiting

if TYPE_CHECKING:
    from reborn_nas.study.config.config import StudyConfig
    from reborn_nas.study.plan.phases import Phase

__all__ = [
    "HungError",
    "NOTICE",
    "Pace",
    "Stopper",
    "Watchdog",
]

NOTICE = 20.0
"""Seconds from a termination signal to the end: less than the 30 s that Slurm and Kubernetes grant."""

SAME = 1.0
"""Seconds within which two termination signals are one: a batch system signals every process of a job."""


class Stopper:
    """Turns signals into a request to stop: the first lets the epoch end, the second interrupts the training at once.

    After a termination signal the second follows automatically, `NOTICE` seconds later; after Ctrl-C the user decides,
    knowing how long an epoch takes. A write to the storage is always completed.

    Args:
        timeout: seconds from now after which to stop, or None.
        parent: process whose end stops this one, or None. Only the parent handles the keyboard and the time limit.
        notice: as `NOTICE`.
    """

    def __init__(
        self, timeout: float | None = None, parent: int | None = None, notice: float = NOTICE
    ) -> None:
        self.interrupted = False
        self.terminated = False
        """Whether it was a termination signal, which leaves little time."""
        self.at_once = False
        """Whether a second signal came."""
        self.spent = False
        """Whether the device hours are used up; set by the worker."""
        self.training_interrupted = False
        """Whether a training was interrupted; its code may have caught that."""
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._parent = parent
        self._notice = notice
        self._first = 0.0
        self._in_training = False
        self._before: dict[int, Any] = {}
        self._alarm: threading.Timer | None = None

    @property
    def timed_out(self) -> bool:
        """Whether the time is up."""
        return self._deadline is not None and time.monotonic() >= self._deadline

    @property
    def wanted(self) -> bool:
        """Whether to stop."""
        return self.interrupted or self.timed_out or self.spent or self.orphaned

    @property
    def orphaned(self) -> bool:
        """Whether the parent is gone."""
        return self._parent is not None and os.getppid() != self._parent

    @contextmanager
    def training(self) -> Iterator[None]:
        """Let the second signal raise KeyboardInterrupt inside the context."""
        if self.interrupted:
            raise KeyboardInterrupt
        self._in_training, self.training_interrupted = True, False
        try:
            yield
        finally:
            self._in_training = False

    def __enter__(self) -> Stopper:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                ignored = number == signal.SIGINT and self._parent is not None
                handler: Any = signal.SIG_IGN if ignored else self._on_signal
                self._before[number] = signal.signal(number, handler)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.interrupted:
            self.interrupted, self._first = True, now
            self.terminated = number == signal.SIGTERM
            if self._parent is None and self.terminated:
                self._alarm = threading.Timer(self._notice, os.kill, (os.getpid(), signal.SIGTERM))
                self._alarm.daemon = True
                self._alarm.start()
            elif self._parent is None:
                _print(
                    "\nending with the epoch under way, whose state is kept; Ctrl-C once more ends at once\n"
                )
            if not is_waiting():
                return
        elif number == signal.SIGTERM and now - self._first < SAME:
            return
        else:
            self.at_once = True
        self.training_interrupted = self._in_training
        self._in_training = False
        raise KeyboardInterrupt


def _print(text: str) -> None:
    """Print to stderr from a signal handler, bypassing Python's buffers, which may be in use."""
    try:
        os.write(2, text.encode())
    except OSError:
        return


_log = logging.getLogger(__name__)

SHORTEST, TIMES = 900.0, 30.0
"""A training hangs if no epoch ends for so many seconds, or for so many times the longest epoch."""

GRACE = 20.0
"""Seconds that a training has to end after it was interrupted, before its process ends."""

EXIT_CODE = 75
"""Exit code of a process that could not be interrupted (sysexits.h: temporary failure); a supervisor restarts it."""


class HungError(TrainingError):
    """No epoch ended for too long."""


class Pace:
    """How long an epoch may take in this process before the training counts as hanging.

    Args:
        config: `hang_after` if given.
        phases: the plan, with its estimated seconds.
        epochs: of a training.
    """

    def __init__(self, config: StudyConfig, phases: Sequence[Phase], epochs: int) -> None:
        self._given = config.hang_after
        estimates = [phase.seconds / phase.count for phase in phases if phase.seconds and phase.count]
        self._longest = max(estimates, default=0.0) * config.processes / max(1, epochs)

    def epoch(self, seconds: float) -> None:
        """Record the duration of an epoch."""
        self._longest = max(self._longest, seconds)

    def limit(self) -> float | None:
        """Seconds; None while nothing is known."""
        if self._given is not None:
            return self._given
        return max(SHORTEST, TIMES * self._longest) if self._longest else None


class Watchdog:
    """Watches one training from a separate thread.

    A training that finished no epoch for `limit` seconds is interrupted by a signal, which ends any Python code. One
    that still runs `grace` seconds later hangs in native code: `on_hang` is then called, and the process is ended if it
    may be.

    Args:
        limit: seconds without an epoch, asked for at every check; None for no limit.
        on_hang: stores the result before the process ends; None if the process must not be ended.
        grace: as `GRACE`.
        leave: ends the process.
    """

    def __init__(
        self,
        limit: Callable[[], float | None],
        on_hang: Callable[[str], None] | None,
        grace: float | None = None,
        leave: Callable[[int], Any] = os._exit,
    ) -> None:
        self._limit, self._on_hang, self._leave = limit, on_hang, leave
        self._grace = GRACE if grace is None else grace
        self._moved = time.monotonic()
        self._over = threading.Event()
        self._watching = False
        self._reason = ""
        self._before: Any = None
        self.training_interrupted = ""
        """Why the training was interrupted; its code may have caught that."""

    def moved(self) -> float:
        """Record the end of an epoch, and return its seconds."""
        before, self._moved = self._moved, time.monotonic()
        return self._moved - before

    def __enter__(self) -> Watchdog:
        self._watching = True
        if _can_signal():
            self._before = signal.signal(signal.SIGALRM, self._interrupt)
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._watching = False
        self._over.set()
        if self._before is not None:
            self._thread.join(
                timeout=1.0
            )  # no signal may come after the handler is gone: its default ends the process
            signal.signal(signal.SIGALRM, self._before)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._watching and self._reason:
            self._watching = False
            self.training_interrupted = self._reason
            raise HungError(self._reason)

    def _watch(self) -> None:
        while not self._over.wait(self._pause()):
            main = threading.main_thread().ident
            if is_pausing(main) or is_asking(main):
                self._moved = (
                    time.monotonic()
                )  # the disk or the storage is the cause, and both are waited for
            limit = self._limit()
            if limit is None or time.monotonic() - self._moved <= limit:
                continue
            self._reason = f"no epoch ended for {limit:.0f} s; --hang-after allows more"
            if self._before is not None:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)
            if self._over.wait(self._grace):
                return
            if self._on_hang is None:
                _log.error(
                    "%s; it hangs in native code, such as a driver without an answer, and cannot be interrupted; end "
                    "this process (`kill -9 %d`), and run the same command to continue",
                    self._reason,
                    os.getpid(),
                )
            else:
                try:
                    self._on_hang(self._reason + " (the process could not be interrupted and was ended)")
                finally:
                    self._leave(EXIT_CODE)
            return

    def _pause(self) -> float:
        limit = self._limit()
        return 5.0 if limit is None else min(5.0, max(0.05, limit / 10))


def _can_signal() -> bool:
    main = threading.current_thread() is threading.main_thread()
    return main and hasattr(signal, "SIGALRM") and hasattr(signal, "pthread_kill")
