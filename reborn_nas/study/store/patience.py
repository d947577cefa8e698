"""A storage that does not answer: calls wait and try again, and the log reports it."""

from __future__ import annotations

import errno
import functools
import inspect
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optuna.storages import BaseStorage as Base

from reborn_nas.errors import PASSING, StudyError, machine_fault

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

__all__ = [
    "AwayError",
    "asking",
    "be_patient",
    "cause_of",
    "is_asking",
    "is_passing",
    "is_waiting",
]

PATIENCE = 600.0
"""Seconds that a call waits for its storage to answer."""

FIRST_WAIT, LONGEST_WAIT = 0.5, 20.0

OURS = ("append_together", "replay")
"""Calls of our own storages, in addition to Optuna's."""

_PASSING = {*PASSING, errno.EAGAIN, errno.ETIMEDOUT}
_BY_NAME = {"OperationalError", "InterfaceError", "StorageInternalError", "_InactiveRpcError"}


class AwayError(StudyError):
    """The storage did not come back."""


def be_patient(
    storage: BaseStorage,
    *,
    name: str = "the storage",
    clean: Callable[[str], str] = lambda text: "",
    patience: float = PATIENCE,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> BaseStorage:
    """Make every call of `storage` try again, with growing pauses, while it is unreachable or its disk is full.

    Repeating a call that took effect although it seemed to fail does no harm: an attempt that no process knows to hold
    is reaped, a second attempt at the same run ends itself, and a result is told only once.

    Args:
        name: the storage's name in the log, without secrets.
        clean: removes secrets from a driver's message.
    """
    names = [method for method, _ in inspect.getmembers(Base, inspect.isfunction)]
    for method in (*names, *OURS):
        if not method.startswith("_") and method != "remove_session" and hasattr(storage, method):
            call = _patient(getattr(storage, method), storage, name, clean, patience, sleep, clock)
            setattr(storage, method, call)
    return storage


def is_passing(error: BaseException) -> bool:
    """Whether the error may be temporary."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ConnectionError | TimeoutError) or type(seen).__name__ in _BY_NAME:
            return True
        if isinstance(seen, OSError) and seen.errno in _PASSING:
            return True
        seen = seen.__cause__
    return False


def _patient(
    call: Callable[..., Any],
    storage: BaseStorage,
    name: str,
    clean: Callable[[str], str],
    patience: float,
    sleep: Callable[[float], None],
    clock: Callable[[], float],
) -> Callable[..., Any]:
    @functools.wraps(call)
    def patient(*args: Any, **kwargs: Any) -> Any:
        began, wait = clock(), FIRST_WAIT
        with asking(name) as question:
            while True:
                try:
                    return call(*args, **kwargs)
                except Exception as error:
                    if not is_passing(error):
                        raise
                    question.trouble = machine_fault(error) or cause_of(error, clean)
                    if clock() - began + wait > patience:
                        raise AwayError(
                            f"{name} has been away for {patience:.0f} s ({question.trouble}); what is finished is "
                            "kept. Run the same command when it is back"
                        ) from None
                    _forget_connection(storage)
                _rest(wait, sleep)
                wait = min(2 * wait, LONGEST_WAIT)

    return patient


def cause_of(error: BaseException, clean: Callable[[str], str]) -> str:
    """The driver's message: "OperationalError: password authentication failed for user me"."""
    while error.__cause__ is not None:
        error = error.__cause__
    details = getattr(error, "details", None)  # of gRPC
    message = str(details() if callable(details) else error)
    return f"{type(error).__name__}: {clean(' '.join(message.split()))[:300]}".removesuffix(": ")


_resting = threading.Event()


def is_waiting() -> bool:
    """Whether this process waits for its storage, so that a signal may end it at once: nothing is being written."""
    return _resting.is_set()


def _rest(seconds: float, sleep: Callable[[float], None]) -> None:
    main = threading.current_thread() is threading.main_thread()
    if main:
        _resting.set()
    try:
        sleep(seconds)
    finally:
        if main:
            _resting.clear()


def _forget_connection(storage: BaseStorage) -> None:
    try:
        storage.remove_session()
    except Exception:  # the connection is broken anyway
        return


SAY_AFTER, SAY_EVERY = 4.0, 30.0
"""Seconds without an answer after which that is logged, and after which it is logged again."""

LOOK = 0.5

_log = logging.getLogger("reborn_nas.study")


@dataclass
class Question:
    """A call without an answer so far; `trouble` is the error of its last try."""

    what: str
    began: float
    trouble: str = ""
    logged: float | None = None


class Listener:
    """Watches the calls of all threads from a separate thread, which starts with the first call."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._open: dict[int, Question] = {}
        self._thread: threading.Thread | None = None
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._open.clear)

    @contextmanager
    def asking(self, what: str) -> Iterator[Question]:
        """Watch a call to `what` inside the context; a nested call counts as the outer one."""
        thread = threading.get_ident()
        outer = self._open.get(thread)
        if outer is not None:
            yield outer
            return
        question = self._open[thread] = Question(what, self._clock())
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._listen, name="silence", daemon=True)
            self._thread.start()
        try:
            yield question
            if question.logged is not None:
                _log.warning("%s answers again, after %.0f s", what, self._clock() - question.began)
        finally:
            self._open.pop(thread, None)

    def is_asking(self, thread: int | None) -> bool:
        """Whether a thread waits for an answer."""
        return thread in self._open

    def look(self) -> None:
        """Log the calls that have had no answer for too long."""
        now = self._clock()
        for question in list(self._open.values()):
            due = question.began + SAY_AFTER if question.logged is None else question.logged + SAY_EVERY
            if now >= due:
                question.logged = now
                trouble = f" ({question.trouble})" if question.trouble else ""
                _log.warning(
                    "%s has not answered for %.0f s%s; waiting", question.what, now - question.began, trouble
                )

    def _listen(self) -> None:
        while True:
            time.sleep(LOOK)
            self.look()


_listener = Listener()
asking, is_asking = _listener.asking, _listener.is_asking
