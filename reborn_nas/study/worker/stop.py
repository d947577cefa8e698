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
"""Seconds between a termination signal and the end: less than the 30 s that Slurm and Kubernetes leave."""

SAME = 1.0
"""Seconds within which two termination signals are one: a batch system signals every process of a job."""


class Stopper:
    """Turns signals into a wish to stop: the first lets the epoch end, the second interrupts the training at once.

    After a termination signal the second one comes by itself, `NOTICE` seconds later; after Ctrl-C it is the user's,
    who knows how long an epoch takes. A write to the storage goes on.

    Args:
        timeout: seconds from now after which nothing goes on, or None.
        parent: process without which nothing goes on, or None. That process alone reads the keyboard and the clock.
        notice: as `NOTICE`.
    """

    def __init__(
        self, timeout: float | None = None, parent: int | None = None, notice: float = NOTICE
    ) -> None:
        self.interrupted = False
        self.terminated = False
        """Whether it was a termination signal, so that the time is short."""
        self.at_once = False
        """Whether a second signal came."""
        self.spent = False
        """Whether the device hours are used up; the engine says so."""
        self.struck = False
        """Whether a training was interrupted, which its code may have caught."""
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
        """Inside, the second signal raises KeyboardInterrupt."""
        if self.interrupted:
            raise KeyboardInterrupt
        self._in_training, self.struck = True, False
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
                _say(
                    "\nending with the epoch under way, whose state is kept; Ctrl-C once more ends at once\n"
                )
            if not is_waiting():
                return
        elif number == signal.SIGTERM and now - self._first < SAME:
            return
        else:
            self.at_once = True
        self.struck = self._in_training
        self._in_training = False
        raise KeyboardInterrupt


def _say(text: str) -> None:
    """On stderr, from within a signal handler: past Python's buffers, which may be in use."""
    try:
        os.write(2, text.encode())
    except OSError:
        return


_log = logging.getLogger(__name__)

SHORTEST, TIMES = 900.0, 30.0
"""A training hangs that finishes no epoch for so many seconds, or for so many times the longest epoch."""

GRACE = 20.0
"""Seconds that a training has to end after it was interrupted, before its process ends."""

EXIT_CODE = 75
"""Of a process that could not be interrupted: sysexits.h's "temporary failure"; whoever supervises starts another."""


class HungError(TrainingError):
    """No epoch ended for too long."""


class Pace:
    """How long an epoch may take in this process before the training counts as hanging.

    Args:
        config: `hang_after` where it was given.
        phases: the plan, with its estimated seconds.
        epochs: of a training.
    """

    def __init__(self, config: StudyConfig, phases: Sequence[Phase], epochs: int) -> None:
        self._given = config.hang_after
        estimates = [phase.seconds / phase.count for phase in phases if phase.seconds and phase.count]
        self._longest = max(estimates, default=0.0) * config.processes / max(1, epochs)

    def epoch(self, seconds: float) -> None:
        """An epoch took so long."""
        self._longest = max(self._longest, seconds)

    def limit(self) -> float | None:
        """Seconds; None while nothing is known."""
        if self._given is not None:
            return self._given
        return max(SHORTEST, TIMES * self._longest) if self._longest else None


class Watchdog:
    """Watches one training from a thread of its own.

    A training that finished no epoch for `limit` seconds is interrupted by a signal, which ends whatever runs
    Python. One that is still there `grace` seconds later hangs in native code: then `on_hang` is called and
    the process ends, where it may.

    Args:
        limit: seconds without an epoch, asked anew at every look, or None for none.
        on_hang: tells the result before the process ends; None where the process is not to be ended.
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
        self._limit, self._last_words, self._leave = limit, on_hang, leave
        self._grace = GRACE if grace is None else grace
        self._moved = time.monotonic()
        self._over = threading.Event()
        self._watching = False
        self._reason = ""
        self._before: Any = None
        self.struck = ""
        """Why the training was interrupted, which its code may have caught."""

    def moved(self) -> float:
        """An epoch has ended; the seconds that it took."""
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
            self.struck = self._reason
            raise HungError(self._reason)

    def _watch(self) -> None:
        while not self._over.wait(self._pause()):
            main = threading.main_thread().ident
            if is_pausing(main) or is_asking(main):
                self._moved = time.monotonic()  # the disk or the storage is to blame, and both are waited for
            limit = self._limit()
            if limit is None or time.monotonic() - self._moved <= limit:
                continue
            self._reason = f"no epoch ended for {limit:.0f} s; --hang-after allows more"
            if self._before is not None:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)
            if self._over.wait(self._grace):
                return
            if self._last_words is None:
                _log.error(
                    "%s; it hangs in native code, such as a driver without an answer, and cannot be interrupted; end "
                    "this process (`kill -9 %d`), and the same command goes on",
                    self._reason,
                    os.getpid(),
                )
            else:
                try:
                    self._last_words(self._reason + " (the process could not be interrupted and was ended)")
                finally:
                    self._leave(EXIT_CODE)
            return

    def _pause(self) -> float:
        limit = self._limit()
        return 5.0 if limit is None else min(5.0, max(0.05, limit / 10))


def _can_signal() -> bool:
    main = threading.current_thread() is threading.main_thread()
    return main and hasattr(signal, "SIGALRM") and hasattr(signal, "pthread_kill")
