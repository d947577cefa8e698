"""When to stop: Ctrl-C, a termination signal, a time limit. What is finished is kept."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from reborn_nas.study.store.patience import is_waiting

__all__ = ["NOTICE", "Stopper"]

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

    @property
    def supervised(self) -> bool:
        """Whether this process has a parent that starts another in its place."""
        return self._parent is not None

    @contextmanager
    def training(self) -> Iterator[None]:
        """Inside, the second signal raises KeyboardInterrupt."""
        if self.interrupted:
            raise KeyboardInterrupt
        self._in_training = True
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
        self._in_training = False
        raise KeyboardInterrupt


def _say(text: str) -> None:
    """On stderr, from within a signal handler: past Python's buffers, which may be in use."""
    try:
        os.write(2, text.encode())
    except OSError:
        return
