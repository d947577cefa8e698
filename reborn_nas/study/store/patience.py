"""A storage that is away for a while: calls wait and try again, so that no worker dies of it and no result is lost."""

from __future__ import annotations

import errno
import functools
import inspect
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from reborn_nas.errors import StudyError
from reborn_nas.faults import PASSING, machine_fault
from reborn_nas.study.store.silence import asking

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

__all__ = ["AwayError", "be_patient", "cause_of", "is_passing", "is_waiting"]

PATIENCE = 600.0
"""Seconds that a call waits for its storage to come back."""

FIRST_WAIT, LONGEST_WAIT = 0.5, 20.0

OURS = ("append_together", "replay")
"""Calls of our own storages, beside Optuna's."""

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

    A call that took effect although it seemed to fail does no harm when it is repeated: an attempt that nobody
    knows to hold is reaped, a second one of the same run ends itself, and a result is told once only.

    Args:
        name: of the storage in what is logged, without secrets.
        clean: what of a driver's words may be logged.
    """
    from optuna.storages import BaseStorage as Base

    names = [method for method, _ in inspect.getmembers(Base, inspect.isfunction)]
    for method in (*names, *OURS):
        if not method.startswith("_") and method != "remove_session" and hasattr(storage, method):
            call = _patient(getattr(storage, method), storage, name, clean, patience, sleep, clock)
            setattr(storage, method, call)
    return storage


def is_passing(error: BaseException) -> bool:
    """Whether the storage may come back by itself."""
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
    """What the driver had to say: "OperationalError: password authentication failed for user me"."""
    while error.__cause__ is not None:
        error = error.__cause__
    details = getattr(error, "details", None)  # of gRPC
    said = str(details() if callable(details) else error)
    return f"{type(error).__name__}: {clean(' '.join(said.split()))[:300]}".removesuffix(": ")


_resting = threading.Event()


def is_waiting() -> bool:
    """Whether this process waits for its storage, when a signal may end it at once: nothing is being written."""
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
