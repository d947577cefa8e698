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

from reborn_nas.study.patience import is_waiting

__all__ = ["Stopper"]


class Stopper:
    """Turns signals into one flag, and interrupts a training at once, but never a write to the storage.

    Args:
        timeout: seconds from now after which nothing goes on, or None.
        parent: process without which nothing goes on, or None.
    """

    def __init__(self, timeout: float | None = None, parent: int | None = None) -> None:
        self.interrupted = False
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._parent = parent
        self._in_training = False
        self._before: dict[int, Any] = {}

    @property
    def timed_out(self) -> bool:
        """Whether the time is up."""
        return self._deadline is not None and time.monotonic() >= self._deadline

    @property
    def wanted(self) -> bool:
        """Whether to stop."""
        orphaned = self._parent is not None and os.getppid() != self._parent
        return self.interrupted or self.timed_out or orphaned

    @contextmanager
    def training(self) -> Iterator[None]:
        """Inside, a signal raises KeyboardInterrupt."""
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
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        again = self.interrupted
        self.interrupted = True
        if self._in_training or again or is_waiting():
            self._in_training = False
            raise KeyboardInterrupt
